package listeners

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"collectd.org/api"
	"collectd.org/network"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
)

const droppedPointsInvalid = "droppedPointsInvalid"

// collectdListener takes packets of collectd's binary protocol.
type collectdListener struct {
	join     bool
	options  network.ParseOpts
	types    *api.TypesDB
	toPoints *collectd.Service // which is not open: it makes points of values
	packets  *packets
	batches  *batches
	stats    *stats
	log      *zap.Logger
}

func openCollectd(c collectd.Config, d Deps) (_ listener, err error) {
	c = *c.WithDefaults()
	buffer, err := c.ReadBuffer.ToInt()
	if err != nil {
		return nil, err
	}
	l := &collectdListener{
		join:     c.ParseMultiValuePlugin == "join",
		toPoints: collectd.NewService(c),
		stats: newStats("collectd", map[string]string{"bind": c.BindAddress},
			pointsRx, bytesRx, pointsParseFail, readFail, droppedPointsInvalid),
		log: d.logger("collectd", c.BindAddress),
	}
	l.toPoints.Logger = l.log
	if l.types, err = readTypes(c.TypesDB); err != nil {
		return nil, fmt.Errorf("typesdb: %w", err)
	}
	if l.options, err = security(c); err != nil {
		return nil, err
	}
	t := d.target(c.Database, c.RetentionPolicy, models.ConsistencyLevelOne, tsdb.CollectdUser, l.stats, l.log)
	l.batches = newBatches(t, c.BatchSize, c.BatchPending, time.Duration(c.BatchDuration), 1)
	if l.packets, err = listenPackets(c.BindAddress, buffer, l.packet, l.failed); err != nil {
		l.batches.close()
		return nil, err
	}
	return l, nil
}

// security is which packets are taken. A name that is missing in the file of passwords is an error of its packet.
func security(c collectd.Config) (network.ParseOpts, error) {
	o := network.ParseOpts{PasswordLookup: network.NewAuthFile(c.AuthFile)}
	switch c.SecurityLevel {
	case "sign":
		o.SecurityLevel = network.Sign
	case "encrypt":
		o.SecurityLevel = network.Encrypt
	default:
		return o, nil
	}
	f, err := os.Open(c.AuthFile)
	if err != nil {
		return o, fmt.Errorf("auth-file: %w", err)
	}
	return o, f.Close()
}

// readTypes reads a file with the types of collectd, or all files of a folder.
func readTypes(path string) (*api.TypesDB, error) {
	all, err := api.NewTypesDB(strings.NewReader(""))
	if err != nil {
		return nil, err
	}
	return all, filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		types, err := api.NewTypesDB(f)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all.Merge(types)
		return nil
	})
}

// close ends the listener. What was read is written.
func (l *collectdListener) close() {
	l.packets.close()
	l.batches.close()
}

func (l *collectdListener) addr() net.Addr { return l.packets.conn.LocalAddr() }

func (l *collectdListener) failed(err error) {
	l.stats.add(readFail, 1)
	l.log.Warn("Cannot read packets of collectd", zap.Error(err))
}

// packet takes the good values of a packet.
func (l *collectdListener) packet(b []byte) {
	l.stats.add(bytesRx, int64(len(b)))
	options := l.options
	if options.SecurityLevel == network.None && len(b) > 1 && binary.BigEndian.Uint16(b) == signature {
		options.SecurityLevel = network.Sign // or the library gives all values twice, with the signature and without
	}
	values, err := network.Parse(valueParts(b), options)
	var points []models.Point
	for _, v := range values {
		if bad := typed(v, l.types); bad != nil {
			err = bad
			continue
		}
		made, bad := l.points(v)
		if bad != nil {
			err = bad
		}
		points = append(points, made...)
	}
	if err == nil && len(values) == 0 && l.options.SecurityLevel != network.None {
		err = errors.New("it has no values that are signed or encrypted as security-level says")
	}
	if err != nil {
		l.stats.add(pointsParseFail, 1)
		l.log.Warn("A packet of collectd is bad", zap.String("error", shown(err.Error())))
	}
	l.stats.add(pointsRx, int64(len(points)))
	l.batches.add(points...)
}

// points makes points of values. Those that cannot be stored, such as NaN, are counted and left out.
func (l *collectdListener) points(v *api.ValueList) (points []models.Point, bad error) {
	want, convert := len(v.Values), l.toPoints.UnmarshalValueList
	if l.join {
		want, convert = 1, l.toPoints.UnmarshalValueListPacked
	}
	for _, p := range convert(v) {
		if err := named(p); err != nil {
			bad = err
			continue
		}
		points = append(points, p)
	}
	l.stats.add(droppedPointsInvalid, int64(want-len(points)))
	return points, bad
}

// typed gives values the types and names that the types of collectd say.
func typed(v *api.ValueList, types *api.TypesDB) error {
	set, ok := types.DataSet(v.Type)
	if !ok {
		return fmt.Errorf("typesdb has no type %q", v.Type)
	}
	values := make([]any, len(v.Values))
	for i, value := range v.Values {
		values[i] = value
	}
	of, err := set.Values(values...)
	if err != nil {
		return fmt.Errorf("type %q: %w", v.Type, err)
	}
	v.Values, v.DSNames = of, set.Names()
	return nil
}

// Types of parts in collectd's binary protocol. A part is its type and its length, two bytes each, and its content.
const (
	// host, time, plugin, its instance, type, its instance, values, interval, time and interval in 2^-30 s
	lastOfValues = 0x0009
	signature    = 0x0200 // of all that follows
	encrypted    = 0x0210
)

// valueParts leaves out the parts of notifications, which have nothing to store. The library would write a line to
// standard error for each.
func valueParts(b []byte) []byte {
	var out []byte
	for rest := b; len(rest) > 0; {
		if len(rest) < 4 {
			return append(out, rest...)
		}
		kind, n := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if kind == signature || n < 4 || n > len(rest) {
			return append(out, rest...)
		}
		if kind <= lastOfValues || kind == encrypted {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}
