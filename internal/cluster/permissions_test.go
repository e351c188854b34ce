package cluster

import (
	"os"
	"strings"
	"testing"
)

// docs/users.md has a row for each permission, with a star for those that may be given for one database.
func TestDocumentsNameEachPermission(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/users.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		for _, name := range strings.Split(cells[1], ",") {
			rows[strings.Trim(name, "` *")] = cells[1]
		}
	}
	for p := Permissions(1); p <= AllPermissions; p <<= 1 {
		row, ok := rows[p.String()]
		if !ok {
			t.Errorf("%s has no row", p)
		} else if star := strings.Contains(row, "*"); star != (p&DatabasePermissions != 0) {
			t.Errorf("%s has a star: %t", p, star)
		}
	}
}
