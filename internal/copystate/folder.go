package copystate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"concord/internal/durable"
)

// folderFile is in the data folder, beside the databases. Without it the folder is new, or another node's.
const folderFile = "concord-folder"

func newFolder() string { return rand.Text() }

// readFolder returns the name of a data folder, empty when it has none.
func readFolder(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, folderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", fmt.Errorf("read the name of the data folder: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if len(name) > 64 {
		name = ""
	}
	return name, nil
}

// writeFolder gives the data folder its name, in one durable step.
func writeFolder(dir, name string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, folderFile), []byte(name+"\n"), 0o640)
	}
	if err != nil {
		return fmt.Errorf("name the data folder %s: %w", dir, err)
	}
	return nil
}
