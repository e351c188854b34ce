package meta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
)

const (
	maxState       = 1 << 30 // bytes
	executeTimeout = applyTimeout + 5*time.Second
)

// metaHTTP speaks to meta nodes. The zero value works.
type metaHTTP struct{ transport http.Transport }

func (m *metaHTTP) close() { m.transport.CloseIdleConnections() }

// state returns the encoded state as soon as it is newer than after, or nil
// when nothing changed for a while.
func (m *metaHTTP) state(ctx context.Context, server string, after uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pollWait+10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server+"/state?index="+strconv.FormatUint(after, 10), nil)
	if err != nil {
		return nil, err
	}
	b, code, err := m.do(req, maxState)
	if err != nil || code == http.StatusNoContent {
		return nil, err
	}
	return b, nil
}

// retryable marks an error after which the command was surely not carried out.
type retryable struct{ error }

// execute sends cmd to the first server that takes it, and returns the index
// of the state that shows its effect.
func (m *metaHTTP) execute(servers []string, cmd cluster.Command) (index uint64, err error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), executeTimeout)
	defer cancel()
	for _, server := range servers {
		var req *http.Request
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, "http://"+server+"/execute", bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Content-Type", "application/json")
		var b []byte
		b, _, err = m.do(req, maxCommand)
		if r := (retryable{}); errors.As(err, &r) {
			err = r.error
			continue
		} else if err != nil {
			return 0, err
		}
		var e execution
		if err := json.Unmarshal(b, &e); err != nil {
			return 0, fmt.Errorf("answer of meta node %s: %w", server, err)
		}
		if e.Error != "" {
			return 0, engineError(e.Error)
		}
		return e.Index, nil
	}
	return 0, err
}

func (m *metaHTTP) do(req *http.Request, limit int64) (b []byte, code int, err error) {
	resp, err := (&http.Client{Transport: &m.transport}).Do(req)
	if err != nil {
		err = fmt.Errorf("meta node %s is unreachable: %w", req.URL.Host, errors.Unwrap(err))
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			err = retryable{err}
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(io.LimitReader(resp.Body, limit)); err != nil {
		return nil, 0, fmt.Errorf("answer of meta node %s: %w", req.URL.Host, err)
	}
	if resp.StatusCode < 300 {
		return b, resp.StatusCode, nil
	}
	var e errorBody
	if json.Unmarshal(b, &e) != nil || e.Error == "" {
		e.Error = strings.TrimSpace(resp.Status)
	}
	err = fmt.Errorf("meta node %s: %s", req.URL.Host, e.Error)
	if resp.StatusCode == http.StatusServiceUnavailable {
		err = retryable{err}
	}
	return nil, resp.StatusCode, err
}

// engineErrors are those that the engine compares by identity or that callers may.
var engineErrors = []error{
	emeta.ErrDatabaseExists, emeta.ErrDatabaseNotExists, emeta.ErrDatabaseNameRequired, emeta.ErrNameTooLong, emeta.ErrInvalidName,
	emeta.ErrRetentionPolicyExists, emeta.ErrRetentionPolicyNotFound, emeta.ErrRetentionPolicyDefault, emeta.ErrRetentionPolicyRequired,
	emeta.ErrRetentionPolicyNameRequired, emeta.ErrRetentionPolicyNameExists, emeta.ErrRetentionPolicyDurationTooLow,
	emeta.ErrRetentionPolicyConflict, emeta.ErrIncompatibleDurations, emeta.ErrReplicationFactorTooLow, emeta.ErrNegativeWriteLimit,
	emeta.ErrShardGroupExists, emeta.ErrShardGroupNotFound, emeta.ErrShardNotReplicated,
	emeta.ErrContinuousQueryExists, emeta.ErrContinuousQueryNotFound, emeta.ErrSubscriptionExists, emeta.ErrSubscriptionNotFound,
	emeta.ErrUserExists, emeta.ErrUserNotFound, emeta.ErrUsernameRequired, emeta.ErrAuthenticate,
	cluster.ErrNoDataNodes,
}

func engineError(text string) error {
	for _, err := range engineErrors {
		if err.Error() == text {
			return err
		}
	}
	return errors.New(text)
}
