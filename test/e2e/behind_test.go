//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"concord/test/process"
)

// TestNodeWithoutMetaNodesSaysWhatItMayLack cuts a data node from the meta node alone. It does not learn of a shard
// that is created then, and the other data nodes tell it that there is something newer.
func TestNodeWithoutMetaNodesSaysWhatItMayLack(t *testing.T) {
	t.Parallel()
	for _, mode := range []process.Mode{process.Refuse, process.Stall} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			p := process.Start(t, process.Options{Meta: 1, Data: 2, Links: true})
			one, two := p.Data[0].Client(), p.Data[1].Client()
			if _, err := one.Query(ctx, "", `CREATE DATABASE db WITH REPLICATION 1`); err != nil {
				t.Fatal(err)
			}
			n := 0
			write := func(day int) {
				t.Helper()
				var lines []byte
				for s := range 10 { // of both nodes
					at := time.Now().Add(time.Duration(-24*day) * time.Hour)
					lines = fmt.Appendf(lines, "m,s=%d v=1 %d\n", s, at.UnixNano())
				}
				if err := one.Write(ctx, "db", "all", lines); err != nil {
					t.Fatal(err)
				}
				n += 10
			}
			count := func() (got int, warnings []string) {
				t.Helper()
				rows, warnings, err := two.Ask(ctx, "db", "SELECT count(v) FROM m")
				if err != nil {
					t.Fatal(err)
				}
				if len(rows) > 0 {
					n, _ := rows[0][1].(json.Number).Int64()
					got = int(n)
				}
				return got, warnings
			}
			write(1)
			if got, warnings := count(); got != n || len(warnings) > 0 {
				t.Fatalf("%d of %d points, and %q", got, n, warnings)
			}
			cut := func(link process.Link) {
				p.Links.Set("data2", "meta1", link)
				p.Links.Set("meta1", "data2", link)
			}
			cut(process.Link{Mode: mode})
			write(30)
			var got int
			var warnings []string
			if !process.Poll(time.Minute, func() bool { got, warnings = count(); return len(warnings) > 0 }) {
				t.Fatalf("%d of %d points, and no warning", got, n)
			}
			if !strings.Contains(warnings[0], "this answer may be incomplete: this node's metadata is behind") {
				t.Errorf("the warning is %q", warnings[0])
			}
			if _, err := two.Query(ctx, "db", "DELETE FROM m"); err == nil || !strings.Contains(err.Error(), "is behind") {
				t.Errorf("a delete of a node that does not know all shards: %v", err)
			}
			v2, err := http.Post("http://"+p.Data[1].HTTP+"/api/v2/delete?bucket=db", "application/json", strings.NewReader(
				`{"start":"1970-01-01T00:00:00Z","stop":"2100-01-01T00:00:00Z"}`))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(v2.Body)
			v2.Body.Close()
			if err != nil || v2.StatusCode/100 == 2 || !strings.Contains(string(body), "is behind") {
				t.Errorf("/api/v2/delete there answers %s: %s, %v", v2.Status, body, err)
			}
			cut(process.Link{})
			if !process.Poll(30*time.Second, func() bool { got, warnings = count(); return got == n && len(warnings) == 0 }) {
				t.Errorf("after the cut: %d of %d points, and %q", got, n, warnings)
			}
		})
	}
}
