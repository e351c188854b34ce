// Package portable reads and writes the metadata file of a backup, in the form of InfluxDB's portable backups. It needs
// the engine; package backup, which influxd-ctl uses, does not.
package portable

import (
	"fmt"

	"github.com/influxdata/influxdb/cmd/influxd/backup_util"
	"github.com/influxdata/influxdb/services/meta"
)

// EncodeMeta is the metadata as InfluxDB's portable backups have it.
func EncodeMeta(d *meta.Data) ([]byte, error) {
	b, err := d.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return backup_util.PortablePacker{Data: b, MaxNodeID: 0}.MarshalBinary()
}

// DecodeMeta reads what EncodeMeta wrote.
func DecodeMeta(b []byte) (*meta.Data, error) {
	var p backup_util.PortablePacker
	if err := p.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("this is not valid metadata: %w", err)
	}
	d := &meta.Data{}
	if err := d.UnmarshalBinary(p.Data); err != nil {
		return nil, fmt.Errorf("this is not valid metadata: %w", err)
	}
	return d, nil
}
