package deletes

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
)

// A delete of a whole measurement has its fields out of the index on disk when it is answered: after a crash the
// shard opens, although the fields have other types since.
func TestDeleteOfAMeasurementIsOnDisk(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*rpc.Delete{
		"DROP MEASUREMENT": {Kind: rpc.Delete_DROP_MEASUREMENT, Name: "m"},
		"DROP SERIES":      {Kind: rpc.Delete_DELETE_SERIES, Statement: "DELETE FROM m"},
		"DELETE WHERE":     {Kind: rpc.Delete_DELETE_SERIES, Statement: "DELETE FROM m WHERE time < 50s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := mustStore(t)
			srv := serverOf(t, store)
			write := func(fields string) {
				t.Helper()
				resp, err := srv.WriteShard(context.Background(), writeRequest(t, "m,h=a "+fields+" 1000000000"))
				if err != nil || resp.Error != "" {
					t.Fatal(resp, err)
				}
			}
			write("f=1")
			r.Database, r.Id = db, "d"
			if resp, err := srv.RunDelete(context.Background(), &rpc.RunDeleteRequest{Delete: r}); err != nil ||
				resp.Error != "" {
				t.Fatal(resp, err)
			}
			write(`f="x"`)
			copied := fieldindex.Folders{Data: filepath.Join(t.TempDir(), "data"), WAL: t.TempDir(), Aside: t.TempDir()}
			from := filepath.Join(store.Path(), db, policy, strconv.Itoa(shardID))
			if err := os.CopyFS(filepath.Join(copied.Data, db, policy, strconv.Itoa(shardID)), os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
			start, err := fieldindex.BeforeOpen(copied)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range start.Rebuilt {
				t.Errorf("after a crash the engine could not load the index of fields: %s", r.Reason)
			}
		})
	}
}
