package devcluster_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/datanode"
	"concord/internal/devcluster"
)

// TestASlowQueryIsLoggedUnderTheIDThatItsClientGot asks until a query is slow: it takes longer than a millisecond.
func TestASlowQueryIsLoggedUnderTheIDThatItsClientGot(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	ctx, c := mustStartOptions(t, devcluster.Options{
		DataNodes: 2, Logger: zap.New(core), DataConfig: func(cfg *datanode.Config) {
			cfg.Cluster.LogQueriesAfter = itoml.Duration(time.Millisecond)
			cfg.Data.QueryLogEnabled = false // slow queries are logged all the same
		},
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(20000, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	asked := make(map[string]bool)
	for _, own := range []string{"", "of-the-client"} {
		if err := c.Wait(ctx, func() bool {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet,
				"http://"+c.Data[0].HTTPAddr()+"/query?"+url.Values{"db": {"db"}, "q": {"SELECT * FROM m"}}.Encode(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if own != "" {
				req.Header.Set("Request-Id", own)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			id := resp.Header.Get("X-Request-Id")
			if id == "" || id != resp.Header.Get("Request-Id") || own != "" && id != own || own == "" && asked[id] {
				t.Fatalf("the answer has the headers %v", resp.Header)
			}
			asked[id] = true
			slow := logs.FilterField(zap.String("request_id", id)).All()
			return len(slow) > 0 && slow[0].ContextMap()["query_id"] != uint64(0)
		}); err != nil {
			t.Errorf("no slow query was logged: %v", logs.All())
		}
	}
}
