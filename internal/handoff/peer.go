package handoff

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// peerFooter is the size of what ends each segment of influxdb-cluster: the position of its first entry that is due.
const peerFooter = 8

// PeerQueues lists the queues of influxdb-cluster in a folder that still have entries, each a phrase. This package does
// not read them. Their segments have numbers as names, so that none is one of ours.
func PeerQueues(dir string) (full []string, err error) {
	nodes, err := numbered(dir)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		path := filepath.Join(dir, strconv.FormatUint(node, 10))
		shards, err := numbered(path)
		if err != nil {
			return nil, err
		}
		for _, shard := range shards {
			due, err := peerQueueDue(filepath.Join(path, strconv.FormatUint(shard, 10)))
			if err != nil {
				return nil, err
			}
			if due {
				full = append(full, fmt.Sprintf("shard %d of data node %d", shard, node))
			}
		}
	}
	return full, nil
}

// peerQueueDue reports whether one queue of influxdb-cluster has entries.
func peerQueueDue(dir string) (bool, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		if _, err := strconv.ParseUint(f.Name(), 10, 64); err != nil || f.IsDir() {
			continue
		}
		if due, err := peerSegmentDue(filepath.Join(dir, f.Name())); due || err != nil {
			return due, err
		}
	}
	return false, nil
}

// peerSegmentDue reports whether a segment of influxdb-cluster has entries. One with a damaged footer may have some.
func peerSegmentDue(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false, err
	} else if end < peerFooter {
		return true, nil
	}
	var footer [peerFooter]byte
	if _, err := f.ReadAt(footer[:], end-peerFooter); err != nil {
		return false, err
	}
	return binary.BigEndian.Uint64(footer[:]) != uint64(end-peerFooter), nil
}
