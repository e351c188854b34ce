package datanode

import (
	"reflect"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/continuous_querier"
	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/precreator"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/services/udp"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/config"
)

// engineDocs are the comments of the engine's sections in the printed sample: its structs have no doc tags.
var engineDocs = config.Texts{
	reflect.TypeFor[tsdb.Config](): {
		"dir":                                             "Where the shards are.",
		"index-version":                                   `Index of new shards: "inmem", in memory, or "tsi1", on disk.`,
		"wal-dir":                                         "Where the write-ahead logs of the shards are; best on another disk than dir.",
		"wal-fsync-delay":                                 "How long a write waits for others to be flushed to disk with it; 0s flushes each write.",
		"validate-keys":                                   "Refuse series keys that are not valid UTF-8 or not printable.",
		"skip-field-size-validation":                      "Do not check the size of fields on writing.",
		"strict-error-handling":                           "Make SELECT INTO fail on values that cannot be stored, such as infinity.",
		"query-log-enabled":                               "Log each query before it runs.",
		"cache-max-memory-size":                           "Bytes in a shard's write cache at which it refuses writes.",
		"cache-snapshot-memory-size":                      "Bytes in a shard's write cache at which it is written to a TSM file.",
		"cache-snapshot-write-cold-duration":              "Time without writes after which a shard's cache is written to a TSM file.",
		"compact-full-write-cold-duration":                "Time without writes or deletes after which a shard is compacted fully.",
		"compact-throughput":                              "Bytes a second that compactions write.",
		"compact-throughput-burst":                        "Bytes a second that compactions write for a short time.",
		"aggressive-points-per-block":                     "Points in a block of shards that are compacted fully.",
		"ingress-metric-by-measurement-enabled":           "Count points and values written by measurement, in the statistics.",
		"ingress-metric-by-login-enabled":                 "Count points and values written by user, in the statistics.",
		"max-series-per-database":                         "Series of a database on this node, with the inmem index; writes of more are dropped. 0 is no limit.",
		"max-values-per-tag":                              "Values of a tag key, with the inmem index; writes of more are dropped. 0 is no limit.",
		"max-concurrent-compactions":                      "Level and full compactions at the same time; 0 is the number of processors.",
		"max-concurrent-optimized-compactions":            "Optimized compactions at the same time; 0 is no limit of its own.",
		"max-index-log-file-size":                         "Bytes of a tsi1 index log at which it is compacted.",
		"max-concurrent-deletes":                          "Shards on which a delete runs at the same time; 0 is four for each processor. The index \"inmem\" allows 1.",
		"series-id-set-cache-size":                        "Without effect: the engine's cache of series by tag value can leave out series, and is off.",
		"series-id-set-cache-max-size":                    "Without effect, as series-id-set-cache-size.",
		"series-id-set-cache-target-hit-rate":             "Without effect, as series-id-set-cache-size.",
		"series-id-set-cache-shrink-conservatism":         "Without effect, as series-id-set-cache-size.",
		"series-file-max-concurrent-snapshot-compactions": "Snapshot compactions of a database's series file at the same time; 0 is the number of processors, and 8 at most.",
		"trace-logging-enabled":                           "Log compactions and other work of the engine in detail.",
		"tsm-use-madv-willneed":                           "Tell the kernel that TSM files will be read; may help on slow disks.",
		"tar-stream-buffer-size":                          "Bytes of the buffer with which shards are packed for backups and copies.",
	},
	reflect.TypeFor[coordinator.Config](): {
		"write-timeout":          "How long a write waits for an owner of its shard.",
		"max-concurrent-queries": "Queries at the same time; more are refused. 0 is no limit.",
		"query-timeout":          "Time after which a query is killed; 0s is never.",
		"log-queries-after":      "Time after which a query is logged as slow; 0s is never.",
		"log-timedout-queries":   "Log the queries that query-timeout kills.",
		"max-select-point":       "Points that a SELECT may process, or that one read of Prometheus may return. 0 is no limit for SELECT, and 50 million for Prometheus.",
		"max-select-series":      "Series that a SELECT may read, or that one read of Prometheus may return. 0 is no limit for SELECT, and 5 million for Prometheus.",
		"max-select-buckets":     "GROUP BY time() intervals that a SELECT may make; 0 is no limit.",
		"termination-query-log":  "Log the running queries when the node is told to stop.",
	},
	reflect.TypeFor[retention.Config](): {
		"enabled":        "Delete shards that are older than their retention policy.",
		"check-interval": "Time between two searches for such shards.",
	},
	reflect.TypeFor[precreator.Config](): {
		"enabled":        "Create shards before their time comes.",
		"check-interval": "Time between two searches for shards to create.",
		"advance-period": "How long before the end of a shard group the next one is created.",
	},
	reflect.TypeFor[monitor.Config](): {
		"store-enabled":  "Store the statistics of this node in a database.",
		"store-database": "Name of that database.",
		"store-interval": "Time between two records of the statistics.",
	},
	reflect.TypeFor[subscriber.Config](): {
		"enabled":                   "Send copies of writes to subscriptions.",
		"http-timeout":              "How long a write to a subscriber over HTTP may take.",
		"insecure-skip-verify":      "Accept any certificate of a subscriber.",
		"ca-certs":                  "PEM file with the authorities that sign subscribers' certificates; those of the system when empty.",
		"root-ca":                   "Authorities that sign subscribers' certificates: PEM files, and whether those of the system count, too.",
		"certificate":               "PEM file with the certificate that is shown to subscribers; none when empty.",
		"private-key":               "PEM file with its key; the certificate's file when empty.",
		"insecure-certificate":      "Accept certificate and key files that others may read.",
		"ignore-cert-sanity-checks": "Use a certificate that fails the checks, and log them.",
		"write-concurrency":         "Writes to a subscriber at the same time.",
		"write-buffer-size":         "Writes that wait for a subscriber.",
		"total-buffer-bytes":        "Bytes of writes that wait for all subscribers; 0 is no limit.",
	},
	reflect.TypeFor[tlsconfig.CAConfig](): {
		"paths":          "PEM files with certificates of authorities.",
		"include-system": "Trust the system's authorities too.",
	},
	reflect.TypeFor[httpd.Config](): {
		"enabled":                    "Serve the HTTP API.",
		"bind-address":               "Host:port of the HTTP API.",
		"auth-enabled":               "Ask clients for user and password, or a token.",
		"log-enabled":                "Log each request.",
		"suppress-write-log":         "Leave writes out of the log of requests.",
		"write-tracing":              "Log the body of each write, for debugging.",
		"flux-enabled":               "Flux is not part of Concord: must be false.",
		"flux-log-enabled":           "Log Flux queries; without effect.",
		"flux-testing":               "Flux test functions; without effect.",
		"pprof-enabled":              "Serve /debug/pprof.",
		"pprof-auth-enabled":         "Ask for an admin on /debug/pprof, with auth-enabled.",
		"debug-pprof-enabled":        "Serve /debug/pprof on localhost:6060 from the very start.",
		"ping-auth-enabled":          "Ask for a user on /ping and /metrics, with auth-enabled.",
		"prom-read-auth-enabled":     "Without effect: with auth-enabled, Prometheus remote reads need ReadData.",
		"headers":                    "HTTP headers that each answer gets.",
		"https-enabled":              "Serve HTTPS instead of HTTP.",
		"https-certificate":          "PEM file with the certificate.",
		"https-private-key":          "PEM file with its key; the certificate's file when empty.",
		"https-insecure-certificate": "Accept certificate and key files that others may read.",
		"https-ignore-sanity-checks": "Use a certificate that fails the checks, and log them.",
		"https-client-auth-type":     "Whether clients must show a certificate: NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert.",
		"https-client-ca":            "Authorities that sign clients' certificates: PEM files, and whether those of the system count, too.",
		"max-row-limit":              "Rows in an answer that is not chunked; 0 is no limit.",
		"max-connection-limit":       "Open connections; more are closed at once. 0 is no limit.",
		"shared-secret":              "Secret of the tokens (JWT) that clients may show instead of a password.",
		"realm":                      "Realm that clients see when they are asked for a password.",
		"unix-socket-enabled":        "Serve the HTTP API on a Unix socket, too.",
		"unix-socket-group":          "Group of that socket, by name or number.",
		"unix-socket-permissions":    "Permissions of that socket, octal.",
		"bind-socket":                "Path of that socket.",
		"max-body-size":              "Bytes of a request's body, also once it is decompressed; 0 is no limit for writes.",
		"access-log-path":            "File for the log of requests; standard error when empty.",
		"access-log-status-filters":  "Statuses whose requests are logged, such as 404 or 5xx; all when empty.",
		"max-concurrent-write-limit": "Writes at the same time; 0 is no limit.",
		"max-enqueued-write-limit":   "Writes that wait for their turn; more are refused. 0 is no limit.",
		"enqueued-write-timeout":     "How long a write waits for its turn; 0s is no limit.",
		"user-query-bytes-enabled":   "Count the bytes of answers by user, in the statistics.",
		"user-write-bytes-enabled":   "Count the bytes of writes by user, in the statistics.",
	},
	reflect.TypeFor[continuous_querier.Config](): {
		"log-enabled":         "Log each run of a continuous query.",
		"enabled":             "Run continuous queries.",
		"query-stats-enabled": "Store the time that each run takes, with the statistics.",
		"run-interval":        "Time between two searches for continuous queries that are due.",
	},
	reflect.TypeFor[graphite.Config](): {
		"enabled":           "Open this listener.",
		"bind-address":      "Host:port of the listener.",
		"database":          "Database of the points. It is made when it does not exist.",
		"retention-policy":  "Retention policy of the points; the default one of the database when empty. It is made when it does not exist.",
		"batch-size":        "Points that are written together.",
		"batch-pending":     "Batches that wait in memory for their turn.",
		"batch-timeout":     "Time after which a batch is written that is not full.",
		"protocol":          "Transport: tcp or udp.",
		"consistency-level": "Consistency level of the writes: any, one, quorum or all.",
		"templates":         "How names become measurements, tags and fields: [filter] template [tags].",
		"tags":              "Tags that all points get, as KEY=VALUE.",
		"separator":         "What stands between the parts of a measurement's name.",
		"udp-read-buffer":   "Bytes of the system's buffer, with protocol udp; 0 is the system's default.",
	},
	reflect.TypeFor[collectd.Config](): {
		"enabled":                 "Open this listener.",
		"bind-address":            "Host:port of the listener, over UDP.",
		"database":                "Database of the points. It is made when it does not exist.",
		"retention-policy":        "Retention policy of the points; the default one of the database when empty. It is made when it does not exist.",
		"batch-size":              "Points that are written together.",
		"batch-pending":           "Batches that wait in memory for their turn.",
		"batch-timeout":           "Time after which a batch is written that is not full.",
		"read-buffer":             "Bytes of the system's buffer; 0 is the system's default.",
		"typesdb":                 "File with the types of collectd, or a folder with such files.",
		"security-level":          "Packets that are taken: none is all of them, sign those with a signature or encrypted, encrypt the encrypted ones.",
		"auth-file":               "File with lines USER: PASSWORD, for signed and encrypted packets.",
		"parse-multivalue-plugin": "What becomes of values that belong together: split makes a measurement of each, join fields of one.",
	},
	reflect.TypeFor[opentsdb.Config](): {
		"enabled":                   "Open this listener.",
		"bind-address":              "Host:port of the listener, for lines and for HTTP.",
		"database":                  "Database of the points. It is made when it does not exist.",
		"retention-policy":          "Retention policy of the points; the default one of the database when empty. It is made when it does not exist.",
		"batch-size":                "Points that are written together.",
		"batch-pending":             "Batches that wait in memory for their turn.",
		"batch-timeout":             "Time after which a batch is written that is not full.",
		"consistency-level":         "Consistency level of the writes: any, one, quorum or all.",
		"tls-enabled":               "Speak TLS.",
		"certificate":               "PEM file with the certificate. SIGHUP loads it again.",
		"private-key":               "PEM file with its key; the certificate's file when empty.",
		"insecure-certificate":      "Accept certificate and key files that others may read.",
		"ignore-cert-sanity-checks": "Use a certificate that fails the checks, and log them.",
		"client-auth-type":          "Whether clients must show a certificate: NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert.",
		"client-ca":                 "Authorities that sign clients' certificates: PEM files, and whether those of the system count, too.",
		"log-point-errors":          "Log each line that is bad. The statistics count them in any case.",
	},
	reflect.TypeFor[udp.Config](): {
		"enabled":          "Open this listener.",
		"bind-address":     "Host:port of the listener.",
		"database":         "Database of the points. It is made when it does not exist.",
		"retention-policy": "Retention policy of the points; the default one of the database when empty. It is made when it does not exist.",
		"batch-size":       "Points that are written together.",
		"batch-pending":    "Batches that wait in memory for their turn.",
		"batch-timeout":    "Time after which a batch is written that is not full.",
		"precision":        "Unit of the points' times: n, u, ms, s, m or h.",
		"read-buffer":      "Bytes of the system's buffer; 0 is the system's default.",
		"writers":          "Batches that are written at the same time.",
	},
}

// engineShow are example values of engine settings that have none by default.
var engineShow = config.Texts{
	reflect.TypeFor[opentsdb.Config](): {
		"client-auth-type": `"RequireAndVerifyClientCert"`,
		"client-ca":        `{ paths = ["/etc/ssl/client-ca.pem"], include-system = false }`,
	},
	reflect.TypeFor[subscriber.Config](): {
		"root-ca": `{ paths = ["/etc/ssl/ca.pem"], include-system = false }`,
	},
	reflect.TypeFor[httpd.Config](): {
		"headers":                `{ "X-Header" = "value" }`,
		"https-client-auth-type": `"RequireAndVerifyClientCert"`,
		"https-client-ca":        `{ paths = ["/etc/ssl/client-ca.pem"], include-system = false }`,
		"unix-socket-group":      `"influxdb"`,
	},
}
