package listeners

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

const (
	httpConnsHandled = "httpConnsHandled"
	tlConnsActive    = "tlConnsActive"
	tlConnsHandled   = "tlConnsHandled"
	tlPointsRx       = "tlPointsRx"
	tlBytesRx        = "tlBytesRx"
	tlReadErr        = "tlReadErr"
	tlBadLine        = "tlBadLine"
	tlBadTime        = "tlBadTime"
	tlBadTag         = "tlBadTag"
	tlBadFloat       = "tlBadFloat"
)

const (
	maxBody     = 25 << 20         // bytes of a request, also once it is decompressed
	headerTime  = 10 * time.Second // for the headers of a request
	requestTime = 5 * time.Second  // for requests to end while the listener closes
)

// opentsdbListener takes the lines and the HTTP requests of OpenTSDB, on one port: an upper case letter begins a
// request. Lines are batched. A request is answered when its points are written.
type opentsdbListener struct {
	target  *target
	batches *batches
	streams *streams
	http    *http.Server
	conns   *handedOver // to http
	serving sync.WaitGroup
	tls     *tlsconfig.TLSConfigManager
	config  opentsdb.Config
	stats   *stats
	log     *zap.Logger
	badLine *zap.Logger // without log-point-errors, nothing
}

func openOpenTSDB(c opentsdb.Config, d Deps) (_ listener, err error) {
	c = *c.WithDefaults()
	l := &opentsdbListener{
		config: c,
		stats: newStats("opentsdb", map[string]string{"bind": c.BindAddress}, httpConnsHandled, tlConnsActive,
			tlConnsHandled, tlPointsRx, tlBytesRx, tlReadErr, tlBadLine, tlBadTime, tlBadTag, tlBadFloat, connsActive,
			connsHandled, droppedPointsInvalid),
		log: d.logger("opentsdb", c.BindAddress), badLine: zap.NewNop(),
	}
	if c.LogPointErrors {
		l.badLine = l.log
	}
	level, err := parseLevel(c.ConsistencyLevel)
	if err != nil {
		return nil, err
	}
	if l.tls, err = openTLS(c, d, l.log); err != nil {
		return nil, err
	}
	ln, err := l.tls.Listen("tcp", c.BindAddress)
	if err != nil {
		return nil, errors.Join(err, l.tls.Close())
	}
	l.target = d.target(c.Database, c.RetentionPolicy, level, tsdb.OpenTsdbUser, l.stats, l.log)
	l.batches = newBatches(l.target, c.BatchSize, c.BatchPending, time.Duration(c.BatchTimeout), 1)
	l.conns = &handedOver{addr: ln.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	l.http = &http.Server{
		Handler: l.handler(), ReadHeaderTimeout: headerTime, ErrorLog: zap.NewStdLog(l.log),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				l.stats.add(connsActive, -1)
			}
		},
	}
	l.serving.Go(func() { l.http.Serve(l.conns) })
	l.streams = serveStreams(ln, l.log, l.stream)
	return l, nil
}

func openTLS(c opentsdb.Config, d Deps, log *zap.Logger) (*tlsconfig.TLSConfigManager, error) {
	base := d.TLS
	if base == nil {
		base = new(tls.Config)
	}
	var auth *tls.ClientAuthType
	if c.ClientAuthType != nil {
		auth = (*tls.ClientAuthType)(c.ClientAuthType)
	}
	return tlsconfig.NewServerTLSConfigManager(d.Certificates,
		tlsconfig.WithUsage(fmt.Sprintf("opentsdb(%s)", c.BindAddress)),
		tlsconfig.WithUseTLS(c.TLSEnabled),
		tlsconfig.WithBaseConfig(base),
		tlsconfig.WithServerCertificate(c.Certificate, c.PrivateKey),
		tlsconfig.WithIgnoreFilePermissions(c.InsecureCertificate),
		tlsconfig.WithIgnoreSanityChecks(c.IgnoreCertSanityChecks),
		tlsconfig.WithClientAuthPtr(auth),
		tlsconfig.WithClientCA(c.ClientCA),
		tlsconfig.WithLogger(log))
}

// prepareReload reads the certificate again. apply is nil without TLS.
func (l *opentsdbListener) prepareReload() (apply func() error, err error) {
	if !l.config.TLSEnabled {
		return nil, nil
	}
	return l.tls.PrepareReconfigure(tlsconfig.WithServerCertificate(l.config.Certificate, l.config.PrivateKey))
}

// close ends the listener. What was read is written, and requests that began are answered.
func (l *opentsdbListener) close() {
	l.streams.close()
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	if l.http.Shutdown(ctx) != nil {
		l.http.Close()
	}
	l.serving.Wait()
	l.batches.close()
	l.tls.Close()
}

func (l *opentsdbListener) addr() net.Addr { return l.conns.addr }

// stream takes one connection.
func (l *opentsdbListener) stream(conn net.Conn) {
	l.stats.add(connsHandled, 1)
	l.stats.add(connsActive, 1)
	r := bufio.NewReader(conn)
	if first, err := r.Peek(1); err == nil && 'A' <= first[0] && first[0] <= 'Z' {
		l.stats.add(httpConnsHandled, 1)
		conn.SetReadDeadline(time.Time{})
		l.conns.hand(begunConn{conn, r})
		return
	}
	defer conn.Close()
	defer l.stats.add(connsActive, -1)
	l.stats.add(tlConnsHandled, 1)
	l.stats.add(tlConnsActive, 1)
	defer l.stats.add(tlConnsActive, -1)
	from := zap.Stringer("remote_addr", conn.RemoteAddr())
	handle := func(line []byte) {
		if strings.TrimSpace(string(line)) == "version" {
			io.WriteString(conn, "InfluxDB TSDB proxy\n")
			return
		}
		l.line(string(line), from)
	}
	rest, err := lines(conn, r, handle)
	if err != nil {
		l.stats.add(tlReadErr, 1)
		l.log.Warn("A connection of OpenTSDB ended early", zap.Error(err))
	} else if rest != "" {
		handle([]byte(rest))
	}
}

// line takes a line, such as "put sys.cpu.user 1356998400 42.5 host=webserver01 cpu=0".
func (l *opentsdbListener) line(line string, from zap.Field) {
	l.stats.add(tlBytesRx, int64(len(line)))
	if strings.TrimSpace(line) == "" {
		return
	}
	l.stats.add(tlPointsRx, 1)
	p, counter, err := putLine(line)
	if err != nil {
		l.stats.add(counter, 1)
		l.badLine.Warn("Cannot read a line of OpenTSDB", zap.String("line", shown(line)), from, zap.Error(err))
		return
	}
	l.batches.add(p)
}

// putLine is the point of a line, or what is bad about it with the statistic that counts that.
func putLine(line string) (p models.Point, counter string, err error) {
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[0] != "put" {
		return nil, tlBadLine, errors.New("it must be: put METRIC TIME VALUE TAG=VALUE, with any number of tags")
	}
	n, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || len(fields[2]) != 10 && len(fields[2]) != 13 {
		return nil, tlBadTime, fmt.Errorf("time %q: must be seconds of 10 digits, or milliseconds of 13", fields[2])
	}
	tags := make(map[string]string)
	for _, tag := range fields[4:] {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" || value == "" {
			return nil, tlBadTag, fmt.Errorf("tag %q: must be KEY=VALUE", tag)
		}
		tags[key] = value
	}
	v, err := strconv.ParseFloat(fields[3], 64)
	if err != nil {
		return nil, tlBadFloat, fmt.Errorf("value %q: must be a number", fields[3])
	}
	p, err = models.NewPoint(fields[1], models.NewTags(tags), models.Fields{"value": v}, opentsdbTime(n))
	return p, tlBadFloat, err
}

// opentsdbTime is a time of OpenTSDB: milliseconds when it is too large for seconds. The engine stores milliseconds as
// microseconds here.
func opentsdbTime(n int64) time.Time {
	if n < 10_000_000_000 {
		return time.Unix(n, 0)
	}
	return time.UnixMilli(n)
}

func (l *opentsdbListener) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api/metadata/put", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/api/put", func(w http.ResponseWriter, r *http.Request) {
		code, err := l.put(w, r)
		if err != nil {
			l.log.Warn("A request of OpenTSDB failed", zap.String("remote_addr", r.RemoteAddr), zap.Int("status", code),
				zap.String("error", shown(err.Error())))
			http.Error(w, err.Error(), code)
			return
		}
		w.WriteHeader(code)
	})
	return mux
}

// dataPoint is a point in the JSON of OpenTSDB.
type dataPoint struct {
	Metric string            `json:"metric"`
	Time   int64             `json:"timestamp"`
	Value  json.Number       `json:"value"` // a string with a number is a number, too
	Tags   map[string]string `json:"tags"`
}

func (d dataPoint) point() (models.Point, error) {
	v, err := strconv.ParseFloat(string(d.Value), 64)
	if err != nil {
		return nil, fmt.Errorf("value %q: must be a number", d.Value)
	}
	if d.Time <= 0 {
		return nil, fmt.Errorf("timestamp %d: must be above 0", d.Time)
	}
	p, err := models.NewPoint(d.Metric, models.NewTags(d.Tags), models.Fields{"value": v}, opentsdbTime(d.Time))
	if err != nil {
		return nil, err
	}
	return p, named(p)
}

// put writes the points of a request. As in OpenTSDB, bad points do not hold up the good ones, and the answer says so.
func (l *opentsdbListener) put(w http.ResponseWriter, r *http.Request) (code int, err error) {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, errors.New("the method must be POST")
	}
	sent, err := decodePut(http.MaxBytesReader(w, r.Body, maxBody), r.Header.Get("Content-Encoding") == "gzip")
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge, fmt.Errorf("the body must not be larger than %d bytes", maxBody)
	} else if err != nil {
		return http.StatusBadRequest, err
	}
	var points []models.Point
	var bad error
	for _, d := range sent {
		p, err := d.point()
		if err != nil {
			bad = fmt.Errorf("metric %q: %w", d.Metric, err)
			continue
		}
		points = append(points, p)
	}
	if len(points) > 0 {
		if err := l.target.write(points); influxdb.IsClientError(err) {
			return http.StatusBadRequest, fmt.Errorf("write: %w", err)
		} else if err != nil {
			return http.StatusInternalServerError, fmt.Errorf("write: %w", err)
		}
	}
	if bad != nil {
		n := len(sent) - len(points)
		l.stats.add(droppedPointsInvalid, int64(n))
		return http.StatusBadRequest, fmt.Errorf("%d of %d points are bad; %w", n, len(sent), bad)
	}
	return http.StatusNoContent, nil
}

// decodePut reads a point or a list of them.
func decodePut(body io.ReadCloser, zipped bool) (points []dataPoint, err error) {
	if zipped {
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		body = http.MaxBytesReader(nil, z, maxBody)
	}
	r := bufio.NewReader(body)
	first, err := r.Peek(1)
	if err != nil {
		return nil, fmt.Errorf("the body must be JSON: %w", err)
	}
	if first[0] == '[' {
		err = json.NewDecoder(r).Decode(&points)
	} else {
		points = make([]dataPoint, 1)
		err = json.NewDecoder(r).Decode(&points[0])
	}
	if err != nil {
		return nil, fmt.Errorf("the body must be a point, or a list of points, as JSON: %w", err)
	}
	return points, nil
}

// handedOver is a net.Listener of connections that another one accepted.
type handedOver struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// hand gives a connection to who accepts, or closes it.
func (h *handedOver) hand(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		conn.Close()
	}
}

// Accept is of net.Listener.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close is of net.Listener.
func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is of net.Listener.
func (h *handedOver) Addr() net.Addr { return h.addr }

// begunConn is a connection of which some bytes were read already.
type begunConn struct {
	net.Conn
	r *bufio.Reader
}

// Read is of net.Conn.
func (c begunConn) Read(b []byte) (int, error) { return c.r.Read(b) }
