package listeners

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"strings"
	"time"

	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

const (
	pointsNaNFail = "pointsNaNFail"
	connsActive   = "connsActive"
	connsHandled  = "connsHandled"
)

// graphiteListener takes lines of graphite's plaintext protocol, over TCP or UDP.
type graphiteListener struct {
	parser  *graphite.Parser
	batches *batches
	stats   *stats
	log     *zap.Logger
	streams *streams // or
	packets *packets
}

func openGraphite(c graphite.Config, d Deps) (_ listener, err error) {
	c = *c.WithDefaults()
	protocol := strings.ToLower(c.Protocol)
	l := &graphiteListener{
		stats: newStats("graphite", map[string]string{"proto": protocol, "bind": c.BindAddress},
			pointsRx, bytesRx, pointsParseFail, pointsNaNFail, connsActive, connsHandled),
		log: d.logger("graphite", c.BindAddress),
	}
	l.parser, err = graphite.NewParserWithOptions(graphite.Options{
		Templates: c.Templates, DefaultTags: c.DefaultTags(), Separator: c.Separator,
	})
	if err != nil {
		return nil, err
	}
	level, err := parseLevel(c.ConsistencyLevel)
	if err != nil {
		return nil, err
	}
	t := d.target(c.Database, c.RetentionPolicy, level, tsdb.GraphiteUser, l.stats, l.log)
	l.batches = newBatches(t, c.BatchSize, c.BatchPending, time.Duration(c.BatchTimeout), 1)
	if protocol == "udp" {
		l.packets, err = listenPackets(c.BindAddress, c.UDPReadBuffer, l.packet, l.failed)
	} else {
		var ln net.Listener
		if ln, err = net.Listen("tcp", c.BindAddress); err == nil {
			l.streams = serveStreams(ln, l.log, l.stream)
		}
	}
	if err != nil {
		l.batches.close()
		return nil, err
	}
	return l, nil
}

// close ends the listener. What was read is written.
func (l *graphiteListener) close() {
	if l.packets != nil {
		l.packets.close()
	} else {
		l.streams.close()
	}
	l.batches.close()
}

func (l *graphiteListener) addr() net.Addr {
	if l.packets != nil {
		return l.packets.conn.LocalAddr()
	}
	return l.streams.ln.Addr()
}

func (l *graphiteListener) failed(err error) {
	l.log.Warn("Cannot read packets of graphite", zap.Error(err))
}

func (l *graphiteListener) stream(conn net.Conn) {
	defer conn.Close()
	l.stats.add(connsHandled, 1)
	l.stats.add(connsActive, 1)
	defer l.stats.add(connsActive, -1)
	rest, err := lines(conn, bufio.NewReader(conn), l.line)
	if err == nil && rest != "" {
		err = fmt.Errorf("%s closed the connection within a line", conn.RemoteAddr())
	}
	if err != nil {
		l.stats.add(pointsParseFail, 1)
		l.log.Warn("A connection of graphite ended early", zap.Error(err))
	}
}

func (l *graphiteListener) packet(b []byte) {
	for line := range strings.Lines(string(b)) {
		l.line([]byte(line))
	}
}

func (l *graphiteListener) line(b []byte) {
	l.stats.add(bytesRx, int64(len(b)))
	line := strings.TrimSpace(string(b))
	if line == "" {
		return
	}
	l.stats.add(pointsRx, 1)
	point, err := l.parser.Parse(line)
	if err == nil {
		l.batches.add(point)
		return
	}
	if v, ok := err.(*graphite.UnsupportedValueError); ok && math.IsNaN(v.Value) {
		l.stats.add(pointsNaNFail, 1) // graphite leaves these out, without an error
		return
	}
	l.stats.add(pointsParseFail, 1)
	l.log.Warn("Cannot read a line of graphite", zap.String("line", shown(line)), zap.Error(err))
}
