package listeners

import (
	"net"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/udp"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

const readFail = "readFail"

// udpListener takes line protocol in UDP packets.
type udpListener struct {
	precision string
	packets   *packets
	batches   *batches
	stats     *stats
	log       *zap.Logger
}

func openUDP(c udp.Config, d Deps) (listener, error) {
	c = *c.WithDefaults()
	buffer, err := c.ReadBuffer.ToInt()
	if err != nil {
		return nil, err
	}
	l := &udpListener{
		precision: c.Precision,
		stats: newStats("udp", map[string]string{"bind": c.BindAddress},
			pointsRx, bytesRx, pointsParseFail, readFail),
		log: d.logger("udp", c.BindAddress),
	}
	t := d.target(c.Database, c.RetentionPolicy, models.ConsistencyLevelOne, tsdb.UdpUser, l.stats, l.log)
	l.batches = newBatches(t, c.BatchSize, c.BatchPending, time.Duration(c.BatchTimeout), c.Writers)
	if l.packets, err = listenPackets(c.BindAddress, buffer, l.packet, l.failed); err != nil {
		l.batches.close()
		return nil, err
	}
	return l, nil
}

// close ends the listener. What was read is written.
func (l *udpListener) close() {
	l.packets.close()
	l.batches.close()
}

func (l *udpListener) addr() net.Addr { return l.packets.conn.LocalAddr() }

func (l *udpListener) failed(err error) {
	l.stats.add(readFail, 1)
	l.log.Warn("Cannot read packets", zap.Error(err))
}

// packet takes the good lines of a packet, as the HTTP API does with those of a write.
func (l *udpListener) packet(b []byte) {
	l.stats.add(bytesRx, int64(len(b)))
	points, err := models.ParsePointsWithPrecision(b, time.Now().UTC(), l.precision)
	if err != nil {
		l.stats.add(pointsParseFail, 1)
		l.log.Warn("A packet has a bad line", zap.String("error", shown(err.Error())))
	}
	l.stats.add(pointsRx, int64(len(points)))
	l.batches.add(points...)
}
