package operator_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"concord/internal/backup"
	"concord/internal/backup/portable"
	"concord/internal/cluster"
	"concord/internal/meta/metatest"
)

// A meta node that is cut from the others does not know the newest shards. A backup of what it knows would look
// complete.
func TestMetaNodeThatIsCutOffPlansNoBackup(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	metatest.MustExecute(t, nodes, cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"}) // nobody is there
	late := metatest.Others(nodes, leader)[0]
	metatest.OK(t, late.Stop())
	for _, op := range []cluster.Op{
		cluster.CreateDatabase{Name: "db"},
		cluster.CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Now()},
	} {
		metatest.MustExecute(t, nodes, op)
	}

	// Every meta node that knows the leader takes the caller there.
	for _, m := range metatest.Others(nodes, late) {
		get := func(path string) (code int, body string) {
			metatest.Until(t, func() bool { // on a busy machine the leader may change meanwhile
				code, body = metatest.Call(t, "GET", m.URL(path))
				return code != http.StatusServiceUnavailable
			})
			return code, body
		}
		code, body := get("/backup/plan")
		var plan []backup.Source
		if err := json.Unmarshal([]byte(body), &plan); err != nil || code != http.StatusOK || len(plan) != 1 ||
			plan[0].Problem == "" {
			t.Errorf("the plan of a node with a leader: %d %s", code, body)
		}
		code, body = get("/backup/meta")
		if data, err := portable.DecodeMeta([]byte(body)); code != http.StatusOK || err != nil ||
			data.Database("db") == nil {
			t.Errorf("the metadata of a node with a leader: %d %v", code, err)
		}
	}

	for _, m := range metatest.Others(nodes, late) {
		metatest.OK(t, m.Stop())
	}
	late.Start(t)
	for _, path := range []string{"/backup/plan", "/backup/meta"} {
		code, body := metatest.Call(t, "GET", late.URL(path))
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "no leader") || strings.Count(body, "\n") != 1 {
			t.Errorf("%s of a node that is cut off: %d %q, want 503 and one line", path, code, body)
		}
	}
}
