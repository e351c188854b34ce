package distquery

import (
	"log"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"

	"concord/internal/restrict"
	"concord/internal/seriesindex"
)

// A delete waits until nobody reads the series file, and whoever comes meanwhile waits behind it. So nothing that holds
// the file may ask for it a second time: it would wait for the delete, and the delete for it, and then all of the
// database.
func TestListsDoNotHoldTheSeriesFileTwice(t *testing.T) {
	t.Parallel()
	user := &restrict.User{Restrictions: []restrict.Rule{{
		Database: &restrict.Match{Match: restrict.Exact, Value: db}, Permissions: []string{restrict.Read},
		Tags: []restrict.TagMatch{{Match: restrict.Prefix, Key: "host", Value: "h"}},
	}}}
	for name, user := range map[string]*restrict.User{"all series": nil, "some series": user} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, testOptions{nodes: 1, replicas: 1, user: user})
			c.write(t, lines(4))
			stop := make(chan struct{})
			var deletes sync.WaitGroup
			for _, id := range c.nodes[0].store.ShardIDs() {
				set, err := seriesindex.SetOf(c.nodes[0].store.Shard(id))
				if err != nil {
					t.Fatal(err)
				}
				deletes.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							set.SeriesFile.Wait()
						}
					}
				})
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				var opt query.ExecutionOptions
				if user != nil {
					opt.Authorizer = user
				}
				for range 40 {
					for _, q := range []string{
						"SHOW SERIES", "SHOW SERIES FROM cpu WHERE host = 'h01'", "SHOW SERIES EXACT CARDINALITY",
						"SHOW SERIES CARDINALITY", "SHOW MEASUREMENTS", "SHOW MEASUREMENTS WHERE host = 'h01'",
						"SHOW TAG KEYS", "SHOW TAG KEYS WHERE host = 'h01'", "SHOW FIELD KEYS",
						"SHOW TAG VALUES WITH KEY = host", "SHOW TAG VALUES WITH KEY = region WHERE host = 'h01'",
						"SELECT * FROM /./ LIMIT 1", "SELECT max(*) FROM cpu GROUP BY *",
					} {
						c.nodes[0].run(t, q, opt)
					}
				}
			}()
			select {
			case <-ended:
				close(stop)
				deletes.Wait()
			case <-time.After(time.Minute):
				log.Fatal("a statement waits for a delete that waits for it") // the store could not be closed either
			}
		})
	}
}
