package local

import (
	"fmt"

	"concord/internal/fulldisk"
)

// Disk is the one with the files of shards.
type Disk struct {
	Dir  string                                           // of the storage engine
	Free func(dir string) (free, total uint64, err error) // of the file system; nil for fulldisk.Free
}

// minFree is the part of the disk that must be free: 1/20.
const minFree = 20

// Check refuses to write so many bytes when the disk would be full then.
func (d Disk) Check(bytes int64) error {
	find := d.Free
	if find == nil {
		find = fulldisk.Free
	}
	free, total, err := find(d.Dir)
	if err != nil {
		return err
	}
	if free < total/minFree || free-total/minFree < uint64(bytes) {
		return fmt.Errorf("less than 5 %% of the disk of %s would be free: make space, the repair goes on by itself",
			d.Dir)
	}
	return nil
}
