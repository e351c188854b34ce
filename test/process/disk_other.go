//go:build !linux

package process

import (
	"errors"
	"time"
)

type disk struct{}

func newDisk(string, int64) (*disk, error) {
	return nil, errors.New("disks of their own need Linux")
}

func (*disk) unmount(bool) error                 { return nil }
func (*disk) fill(int64, time.Duration) error    { return nil }
func (*disk) free() (free, all int64, err error) { return 0, 0, nil }
