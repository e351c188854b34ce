package datanode

import (
	"fmt"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/meta/client"
)

// writeAuthorizer is the engine's, with the privileges that users have by their roles.
type writeAuthorizer struct{ meta *client.Client }

func (a writeAuthorizer) AuthorizeWrite(username, database string) error {
	if u := a.meta.UserInfo(username); u != nil && u.AuthorizeDatabase(influxql.WritePrivilege, database) {
		return nil
	}
	return &emeta.ErrAuthorize{Database: database, Message: fmt.Sprintf("%s not authorized to write to %s", username, database)}
}
