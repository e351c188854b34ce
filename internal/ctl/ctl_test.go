package ctl_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"concord/internal/cli"
	"concord/internal/ctl"
)

// answers are what a meta node says, by method and path.
var answers = map[string]string{
	"GET /show-cluster": `{"data":[{"id":2,"tcpAddr":"data1:8088","httpAddr":"data1:8086","version":"1.0"}],"meta":[{"id":1,"tcpAddr":"meta1:8089","httpAddr":"meta1:8091","version":"1.0"}]}`,
	"GET /status":       `{"nodeType":"meta","leader":"meta1:8089","httpAddr":"meta1:8091","raftAddr":"meta1:8089","peers":["meta1:8089","meta2:8089","meta3:8089"]}`,
	"GET /show-shards": `[{"id":22,"database":"telegraf","retention-policy":"autogen","replica-n":2,"shard-group-id":11,"start-time":"2017-01-26T18:00:00Z","end-time":"2017-01-27T18:00:00Z","owners":[{"id":26,"tcpAddr":"data1:8088"},{"id":33,"tcpAddr":"data2:8088"}]},` +
		`{"id":23,"database":"telegraf","retention-policy":"autogen","replica-n":2,"shard-group-id":12,"start-time":"2017-01-27T18:00:00Z","end-time":"2017-01-27T20:00:00Z","expire-time":"2017-02-03T18:00:00Z","truncated-at":"2017-01-27T20:00:00Z","owners":[]}]`,
	"GET /shard-repair/status":         `{"shards":[{"id":"21179","database":"statsdb","retention_policy":"1hour","start_time":"1507507200000000000","end_time":"1508112000000000000","expires":"1540166400000000000","status":"diff"}],"queued_shards":["21179","25165"],"processing_shards":[]}`,
	"POST /add-meta":                   `{"id":1,"tcpAddr":"meta1:8089","httpAddr":"meta1:8091"}`,
	"POST /add-data":                   `{"id":4,"tcpAddr":"data1:8088","httpAddr":"data1:8086"}`,
	"POST /remove-data":                `{"id":4,"tcpAddr":"data1:8088","httpAddr":"data1:8086"}`,
	"GET /remove-data":                 `{"id":4,"tcpAddr":"data1:8088","httpAddr":"data1:8086"}`,
	"GET /remove-meta":                 `{"id":1,"tcpAddr":"meta1:8089","httpAddr":"meta1:8091"}`,
	"POST /activate-data":              `{"id":4,"tcpAddr":"data1:8088","httpAddr":"data1:8086"}`,
	"POST /update-data":                `{"id":4,"tcpAddr":"data5:8088","httpAddr":"data5:8086"}`,
	"POST /remove-meta":                `{"id":1,"tcpAddr":"meta1:8089","httpAddr":"meta1:8091"}`,
	"POST /truncate-shards":            `{}`,
	"POST /node-labels":                `{"id":4,"tcpAddr":"data1:8088","labels":{"az":"eu","rack":"1"}}`,
	"POST /shard-repair/repair":        ``,
	"POST /shard-repair/cancel-repair": ``,
	"POST /shard-repair/resolve":       `{"id":"21179","owners":[{"node":"data1:8088","points":0},{"node":"data2:8088","points":3,"kept":"/var/lib/influxdb/meta/anti-entropy/aside/21179-20171009T000000.000000000Z/values.lp"}]}`,
	"GET /shard-repair/diff": `{"id":"21179","owners":["data1:8088","data2:8088"],"pairs":[{"a":"data1:8088","b":"data2:8088","missing_on_a":0,"missing_on_b":42,"conflicts":1}],"bytes":2048,"differing_fields":3,"series":[{"series":"cpu,host=a","field":"v","start_time":"1507507200000000000","end_time":"1507510800000000000"}],` +
		`"decided":[{"series":"cpu,host=a","field":"v","time":"1507507200000000001","value":"1","reason":"it was written last","held":[{"node":"data1:8088","value":"1","version":"2017-10-09T01:00:00.000001Z #0 node 4"},{"node":"data2:8088","value":"2","not_after":"2017-10-09T00:30:00Z"}]},` +
		`{"series":"cpu,host=b","field":"v","time":"0","value":"","reason":"an owner may decide otherwise","undecided":true,"held":[{"node":"data1:8088","value":"1"},{"node":"data2:8088","value":"2","version":"is being written"}]}]}`,
	"POST /shard-repair/check":  ``,
	"POST /shard-repair/pause":  ``,
	"POST /shard-repair/resume": ``,
	"GET /shard-repair/repairs": `{"repairs":[{"id":"21179","repair_id":"21179-fb3k3v8ow0","database":"statsdb","retention_policy":"1hour","state":"done","node":"data1:8088","owners":["data1:8088","data2:8088"],"added":"1507507200000000000","started":"1507507200000000000","ended":"1507507201500000000","progress":1,"points":4200,"conflicts":1,"decided":[{"series":"m,host=a","field":"u","time":"1507507200000000000","value":"1","reason":"most owners have it","held":[{"node":"data1:8088","value":"1"},{"node":"data2:8088","value":"2"}]}],"refused":3,"refusals":[{"node":"data2:8088","series":"m,host=a","field":"v","reason":"the field is integer there, and not float"}],"bytes_received":123456,"bytes_sent":999}],"paused_nodes":["data3:8088"]}`,
}

// run executes influxd-ctl against a meta node and returns what it prints and its error.
func run(t *testing.T, bind string, args ...string) (string, error) {
	t.Helper()
	root := cli.NewRoot("influxd-ctl", ctl.Setup)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(cli.DoubleDash(append([]string{"-bind", bind}, args...)))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// What is damaged and where stands below the table, whose form scripts know.
func TestShowSaysWhatIsDamaged(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"shards":[{"id":"1","database":"db","retention_policy":"rp","start_time":"0","end_time":"0","expires":"0","status":"diff"},`+
			`{"id":"2","database":"db","retention_policy":"rp","start_time":"0","end_time":"0","expires":"0","status":"corrupt","message":"data1:8088: 01.tsm is damaged: why"}],`+
			`"queued_shards":[],"processing_shards":[]}`)
	}))
	t.Cleanup(srv.Close)
	got, err := run(t, strings.TrimPrefix(srv.URL, "http://"), "entropy", "show")
	if want := "  corrupt\n\nShard 2 corrupt: data1:8088: 01.tsm is damaged: why\n\nQueued Shards: []\n"; err != nil || !strings.HasSuffix(got, want) {
		t.Errorf("%v\n%s", err, got)
	}
}

// With -config, the meta node of this machine is the one in the file, and the cluster is that of the one in the
// command.
func TestJoinWithConfigurationAsksTheRightNodes(t *testing.T) {
	t.Parallel()
	node := func(name string) (addr string, asked func() []string) {
		var mu sync.Mutex
		var paths []string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			paths = append(paths, r.URL.Path)
			if r.URL.Path == "/status" {
				fmt.Fprintf(w, `{"httpAddr":"%s:8091"}`, name)
				return
			}
			fmt.Fprint(w, `{"id":1}`)
		}))
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String(), func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(paths)
		}
	}
	own, askedOwn := node("own")
	other, askedOther := node("other")
	host, port, err := net.SplitHostPort(own)
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "influxdb-meta.conf")
	text := fmt.Sprintf("hostname = %q\n[meta]\nhttp-bind-address = %q\n", host, ":"+port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	join := func(args ...string) string {
		t.Helper()
		root := &cobra.Command{Use: "influxd-ctl", SilenceUsage: true, SilenceErrors: true}
		ctl.Setup(root)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(cli.DoubleDash(append([]string{"-config", conf, "join"}, args...)))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out.String())
		}
		first, _, _ := strings.Cut(out.String(), "\n")
		return first
	}
	if got, want := join(), "Joining meta node at "+own; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if d := cmp.Diff([]string{"/status", "/add-meta", "/add-data"}, askedOwn()); d != "" {
		t.Error(d)
	}
	if got, want := join(other), "Joining meta node at "+other; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if d := cmp.Diff([]string{"/add-meta", "/add-data"}, askedOther()); d != "" {
		t.Errorf("the node of the cluster to join is asked for: %s", d)
	}
}

// outputs are what commands print.
var outputs = []struct{ args, want string }{
	{"entropy show", `Entropy
==========
ID     Database  Retention Policy  Start                          End                            Expires                        Status
21179  statsdb   1hour             2017-10-09 00:00:00 +0000 UTC  2017-10-16 00:00:00 +0000 UTC  2018-10-22 00:00:00 +0000 UTC  diff

Queued Shards: [21179 25165]
`},
	{"entropy repair 21179", "Repair Shard 21179 queued\n"},
	{"entropy kill-repair 21179", "Repair Shard 21179 cancelled\n"},
	{"entropy kill-repair 7", "No repair of Shard 7 was queued or running\n"},
	{"entropy check", "Checking all shards: see entropy show\n"},
	{"entropy check 21179", "Checking shard 21179: see entropy show\n"},
	{"entropy diff 21179", `Points of Shard 21179
==========
Owner A     Owner B     Missing on A  Missing on B  Conflicts
data1:8088  data2:8088  0             42            1

Differing Series
==========
Series      Field  Start                          End
cpu,host=a  v      2017-10-09 00:00:00 +0000 UTC  2017-10-09 01:00:00 +0000 UTC
and 2 more

Conflicts
==========
cpu,host=a v 2017-10-09 00:00:00.000000001 +0000 UTC is 1 after a repair: it was written last
    data1:8088  1  2017-10-09T01:00:00.000001Z #0 node 4
    data2:8088  2  version not known, not after 2017-10-09T00:30:00Z
cpu,host=b v 1970-01-01 00:00:00 +0000 UTC is undecided: an owner may decide otherwise
    data1:8088  1  version not known
    data2:8088  2  is being written

A repair would send 2.0 KiB.
`},
	{"entropy resolve 21179 -measurement m -field v -type float", `data1:8088: nothing to set aside
data2:8088: set 3 points aside in /var/lib/influxdb/meta/anti-entropy/aside/21179-20171009T000000.000000000Z/values.lp
Field "v" of "m" is float in shard 21179; its repair is queued: see entropy show
`},
	{"entropy pause", "Repairs are paused\n"},
	{"entropy resume", "Repairs go on\n"},
	{"entropy repairs", `Repairs
==========
Shard  Repair ID         Database  Retention Policy  State  Node        Started                        Took  Progress  Points  Conflicts  Received   Sent   Error
21179  21179-fb3k3v8ow0  statsdb   1hour             done   data1:8088  2017-10-09 00:00:00 +0000 UTC  1.5s  100%      4200    1          120.6 KiB  999 B  

Conflicts Decided
==========
Shard 21179: m,host=a u 2017-10-09 00:00:00 +0000 UTC is 1: most owners have it
    data1:8088  1  version not known
    data2:8088  2  version not known

Points Refused
==========
Shard  Node        Series    Field  Reason
21179  data2:8088  m,host=a  v      the field is integer there, and not float
and 2 more

Paused Nodes: [data3:8088]
`},
	{"entropy watch", `shard 21179 done on data1:8088: 100%, 4200 points, 120.6 KiB received, 999 B sent
No repair waits or runs.

Paused Nodes: [data3:8088]
`},
	{"add-data data1:8088", "Added data node 4 at data1:8088\n"},
	{"add-meta meta1:8091", "Added meta node 1 at meta1:8091\n"},
	{"remove-data -force data1:8088", "Removed data node 4 at data1:8088\n"},
	{"update-data data1:8088 data5:8088", "Updated data node 4 to data5:8088\n"},
	{"remove-meta meta1:8091", "Removed meta node 1 at meta1:8091\n"},
	{"truncate-shards -delay 30s", "Truncated shards.\n"},
	{`node-labels set -nodeid 4 -labels {"az":"eu"}`, `Labels of node 4: {"az":"eu","rack":"1"}` + "\n"},
	{"join -data data1:8088", `Joining meta node at META
Searching for meta node on meta1:8091...
Searching for data node on data1:8088...

Successfully created cluster

  * Added meta node 1 at meta1:8091
  * Added data node 4 at data1:8088

  To join additional nodes to this cluster, run the following command:

  influxd-ctl join meta1:8091
`},
	{"leave -y -data data1:8088", `Searching for data node on data1:8088...
Removed data1:8088 from the cluster
Searching for meta node on meta1:8091...

Successfully left cluster

  * Removed data node data1:8088 from cluster
  * Removed meta node meta1:8091 from cluster
`},
	{"show", `Data Nodes
==========
ID  TCP Address  HTTP Address  Version  Labels  Passive
2   data1:8088   data1:8086    1.0      {}      false

Meta Nodes
==========
ID  Raft Address  HTTP Address  Version  Labels
1   meta1:8089    meta1:8091    1.0      {}

Raft Status
==========
Leader  meta1:8089
Peers   ["meta2:8089", "meta3:8089"]
`},
	{"show-shards", `Shards
==========
ID  Database  Retention Policy  Desired Replicas  Shard Group  Start                 End                   Expires  Owners
22  telegraf  autogen           2                 11           2017-01-26T18:00:00Z  2017-01-27T18:00:00Z           [{26 data1:8088} {33 data2:8088}]
`},
	{"activate-data data1:8088", "Data node 4 at data1:8088 is active\n"},
	{"remove-meta -force -tcpAddr meta1:8089 meta1:8091", "Removed meta node 1 at meta1:8091\n"},
	{"show-shards -e", `Shards
==========
ID  Database  Retention Policy  Desired Replicas  Shard Group  Start                 End                    Expires               Owners
22  telegraf  autogen           2                 11           2017-01-26T18:00:00Z  2017-01-27T18:00:00Z                         [{26 data1:8088} {33 data2:8088}]
23  telegraf  autogen           2                 12           2017-01-27T18:00:00Z  2017-01-27T20:00:00Z*  2017-02-03T18:00:00Z  []
`},
}

func TestOutputIsAsDocumented(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.Error(w, `{"error":"no such path"}`, http.StatusNotFound)
			return
		}
		if a == "" {
			w.WriteHeader(http.StatusNoContent)
		}
		fmt.Fprint(w, a)
	}))
	t.Cleanup(srv.Close)
	for _, tt := range outputs {
		got, err := run(t, srv.Listener.Addr().String(), strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		got = strings.ReplaceAll(got, srv.Listener.Addr().String(), "META")
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s:\n%s", tt.args, d)
		}
	}
}

func TestErrorsAreOneLineThatSaysWhatToDo(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"shard %s does not exist"}`, r.FormValue("id"))
	}))
	t.Cleanup(srv.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct{ bind, args, want string }{
		{srv.Listener.Addr().String(), "entropy repair 7", "shard 7 does not exist"},
		{gone.Listener.Addr().String(), "show", "no meta node answers at " + gone.Listener.Addr().String() + ": start influxd-meta there, or name another with -bind"},
		{srv.Listener.Addr().String(), "entropy repair", "entropy repair: <shard-id> is missing: influxd-ctl entropy repair <shard-id> [flags]"},
		{srv.Listener.Addr().String(), "backup", "backup: <dir> is missing: influxd-ctl backup <dir> [flags]"},
		{srv.Listener.Addr().String(), "show x", `show: unexpected argument "x": influxd-ctl show [flags]`},
		{srv.Listener.Addr().String(), "entropy sho", `unknown command "sho" for "influxd-ctl entropy": did you mean show?`},
		{srv.Listener.Addr().String(), "entropy shw", `unknown command "shw" for "influxd-ctl entropy": did you mean show?`},
		{srv.Listener.Addr().String(), "help bogus", `unknown command "bogus" for "influxd-ctl"`},
		{srv.Listener.Addr().String(), "help entropy bogus", `unknown command "bogus" for "influxd-ctl entropy"`},
		{srv.Listener.Addr().String(), "-bogus show", "unknown flag: --bogus"},
		{srv.Listener.Addr().String(), "entropy show -bogus", "entropy show: unknown flag: --bogus"},
		{srv.Listener.Addr().String(), "node-labels set -nodeid 4", "node-labels set: -labels is missing: it needs -nodeid and -labels"},
		{srv.Listener.Addr().String(), "adopt", "adopt: <tcp-addr> is missing: influxd-ctl adopt <tcp-addr> [flags]"},
		{srv.Listener.Addr().String(), "node-labels bogus", `unknown command "bogus" for "influxd-ctl node-labels": it has delete, set`},
		{srv.Listener.Addr().String(), "backup -gzipBlockSize 5 dir", "-gzipBlockSize: must be from 32768 to 1073741824"},
		{srv.Listener.Addr().String(), "backup -gzipBlockCount 0 dir", "-gzipBlockCount: must be from 1 to 1024"},
		{srv.Listener.Addr().String(), "backup -staleness-threshold -1s dir", "-staleness-threshold: must not be negative"},
		{srv.Listener.Addr().String(), "completion tcsh", `completion: shell "tcsh" is not supported: bash, zsh or fish`},
		{srv.Listener.Addr().String(), "entropy resolve 7 -measurement m -type float", "-field: must be given"},
		{srv.Listener.Addr().String(), "-auth-type basic show", "-auth-type basic needs -user and -pwd"},
		{srv.Listener.Addr().String(), "-auth-type card show", "-auth-type card is not supported: use none, basic or jwt"},
		{srv.Listener.Addr().String(), "token", "token: only with -auth-type jwt, and -secret or -config"},
		{srv.Listener.Addr().String(), "-bind-tls show", srv.Listener.Addr().String() + " does not speak TLS: leave out -bind-tls"},
		{srv.Listener.Addr().String(), "-auth-type jwt show", "-auth-type jwt needs -secret, or -config"},
	} {
		_, err := run(t, tt.bind, strings.Fields(tt.args)...)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
		}
	}
}
