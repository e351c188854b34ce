package wire

import "concord/internal/restrict"

// Restrictions is the answer of GET /influxdb/v2/acl/restrictions.
type Restrictions struct {
	Restrictions []restrict.Restriction `json:"restrictions"`
}

// Grants is the answer of GET /influxdb/v2/acl/grants.
type Grants struct {
	Grants []restrict.Grant `json:"grants"`
}
