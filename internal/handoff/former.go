package handoff

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"concord/internal/durable"
)

// SetFormerAside takes all queues out of a folder whose service is not open: they are of the data node with the ID
// former, and this is another one now. It returns the folder in which they are kept, empty when nothing waited, and how
// many queues had entries. After a crash or an error it can be called again: what was moved stays where it is.
func SetFormerAside(dir string, former uint64) (aside string, queues int, err error) {
	kept, err := Kept(dir)
	if err != nil || len(kept) == 0 {
		return "", 0, err
	}
	nodes, err := numbered(dir)
	if err != nil {
		return "", 0, err
	}
	for n := 1; ; n++ {
		aside = filepath.Join(dir, fmt.Sprintf("%s%d-%d", formerDir, former, n))
		if err = os.Mkdir(aside, 0o750); !errors.Is(err, os.ErrExist) {
			break
		}
	}
	for _, node := range nodes {
		if err == nil {
			name := strconv.FormatUint(node, 10)
			err = os.Rename(filepath.Join(dir, name), filepath.Join(aside, name))
		}
	}
	if err == nil {
		err = errors.Join(durable.SyncDir(aside), durable.SyncDir(dir))
	}
	if err != nil {
		return "", 0, fmt.Errorf("set the queues of hinted handoff aside: %w", err)
	}
	return aside, len(kept), nil
}
