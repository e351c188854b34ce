package client

import (
	"errors"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
)

// engineErrors are those that callers compare by identity, the engine for one. Meta nodes send their text.
var engineErrors = []error{
	emeta.ErrDatabaseExists, emeta.ErrDatabaseNotExists, emeta.ErrDatabaseNameRequired,
	emeta.ErrNameTooLong, emeta.ErrInvalidName,
	emeta.ErrRetentionPolicyExists, emeta.ErrRetentionPolicyNotFound, emeta.ErrRetentionPolicyDefault,
	emeta.ErrRetentionPolicyRequired, emeta.ErrRetentionPolicyNameRequired, emeta.ErrRetentionPolicyNameExists,
	emeta.ErrRetentionPolicyDurationTooLow, emeta.ErrRetentionPolicyConflict, emeta.ErrIncompatibleDurations,
	emeta.ErrReplicationFactorTooLow, emeta.ErrNegativeWriteLimit,
	emeta.ErrShardGroupExists, emeta.ErrShardGroupNotFound, emeta.ErrShardNotReplicated,
	emeta.ErrContinuousQueryExists, emeta.ErrContinuousQueryNotFound,
	emeta.ErrSubscriptionExists, emeta.ErrSubscriptionNotFound,
	emeta.ErrUserExists, emeta.ErrUserNotFound, emeta.ErrUsernameRequired, emeta.ErrAuthenticate,
	cluster.ErrNoDataNodes,
}

// engineError is the error with that text, one of the engine's own if it has one.
func engineError(text string) error {
	for _, err := range engineErrors {
		if err.Error() == text {
			return err
		}
	}
	return errors.New(text)
}
