package ossbackup

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/influxdata/influxdb/services/snapshotter"
)

const (
	maxLine = 16 << 10 // bytes of a request, which has four names
	// maxMeta is the bytes of the metadata of a backup: more than 100,000 shards.
	maxMeta = 16 << 20
)

// request is what a client asks. One of the last two is set in a request that changes the cluster.
type request struct {
	snapshotter.Request        // Type is that of the first byte
	metadata            []byte // that is to be restored
	upload              io.Reader
}

// readRequest reads what a client asks. The file of an upload is not read yet, and needs its time later.
func readRequest(c *client) (request, error) {
	limit := time.AfterFunc(requestTime, func() { c.Close() })
	r, err := parseRequest(c)
	if !limit.Stop() && err != nil {
		err = fmt.Errorf("no request came within %s", requestTime)
	}
	if err != nil && errors.Is(err, net.ErrClosed) {
		err = errors.New("the connection was closed before the request was there")
	}
	return r, err
}

// parseRequest reads a request.
func parseRequest(from io.Reader) (request, error) {
	in := bufio.NewReaderSize(from, maxLine)
	kind, err := in.ReadByte()
	if err != nil {
		return request{}, fmt.Errorf("read the type of the request: %w", err)
	}
	r := request{}
	switch t := snapshotter.RequestType(kind); t {
	case snapshotter.RequestShardUpdate:
		var id [8]byte
		if _, err := io.ReadFull(in, id[:]); err != nil {
			return request{}, fmt.Errorf("read the ID of the shard: %w", err)
		}
		r.Type, r.ShardID, r.upload = t, binary.BigEndian.Uint64(id[:]), in
		return r, nil
	case snapshotter.RequestShardBackup, snapshotter.RequestShardExport, snapshotter.RequestMetastoreBackup,
		snapshotter.RequestDatabaseInfo, snapshotter.RequestRetentionPolicyInfo, snapshotter.RequestMetaStoreUpdate:
	default:
		return request{}, fmt.Errorf("the request has the unknown type %d", kind)
	}
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return request{}, fmt.Errorf("the request is longer than %d bytes", maxLine)
	} else if err != nil {
		return request{}, fmt.Errorf("read the request: %w", err)
	}
	if err := json.Unmarshal(line, &r.Request); err != nil {
		return request{}, fmt.Errorf("read the request: %w", err)
	}
	r.Type = snapshotter.RequestType(kind)
	if r.Type != snapshotter.RequestMetaStoreUpdate {
		return r, nil
	}
	if r.UploadSize <= 0 || r.UploadSize > maxMeta {
		return request{}, fmt.Errorf("the metadata has %d bytes; it must have between 1 and %d", r.UploadSize, maxMeta)
	}
	if r.metadata, err = io.ReadAll(io.LimitReader(in, r.UploadSize)); err != nil {
		return request{}, fmt.Errorf("read the metadata: %w", err)
	}
	if int64(len(r.metadata)) < r.UploadSize {
		return request{}, fmt.Errorf("the metadata ended after %d of %d bytes", len(r.metadata), r.UploadSize)
	}
	return r, nil
}
