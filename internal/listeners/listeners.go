package listeners

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/udp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Deps is what listeners need.
type Deps struct {
	Writer       Writer
	Meta         Metadata
	Certificates *tlsconfig.TLSCertMonitor
	TLS          *tls.Config // versions and ciphers; nil for those of Go
	Log          *zap.Logger
}

// Config has the listeners, any number of each. Those that are not enabled are not opened.
type Config struct {
	Graphite []graphite.Config
	Collectd []collectd.Config
	OpenTSDB []opentsdb.Config
	UDP      []udp.Config
}

// Listeners are those that are open.
type Listeners struct{ list []listener }

type listener interface {
	addr() net.Addr
	close()
	counters() *stats
}

func (l *graphiteListener) counters() *stats { return l.stats }
func (l *collectdListener) counters() *stats { return l.stats }
func (l *opentsdbListener) counters() *stats { return l.stats }
func (l *udpListener) counters() *stats      { return l.stats }

// Open opens all listeners, or none.
func Open(c Config, d Deps) (_ *Listeners, err error) {
	l := &Listeners{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	for _, one := range c.Graphite {
		if err := l.open("graphite", one.Enabled, one.BindAddress,
			func() (listener, error) { return openGraphite(one, d) }); err != nil {
			return nil, err
		}
	}
	for _, one := range c.Collectd {
		if err := l.open("collectd", one.Enabled, one.BindAddress,
			func() (listener, error) { return openCollectd(one, d) }); err != nil {
			return nil, err
		}
	}
	for _, one := range c.OpenTSDB {
		if err := l.open("opentsdb", one.Enabled, one.BindAddress,
			func() (listener, error) { return openOpenTSDB(one, d) }); err != nil {
			return nil, err
		}
	}
	for _, one := range c.UDP {
		if err := l.open("udp", one.Enabled, one.BindAddress,
			func() (listener, error) { return openUDP(one, d) }); err != nil {
			return nil, err
		}
	}
	for _, one := range l.list {
		s := one.counters()
		d.Log.Info("Listening", zap.String("service", s.name), zap.Stringer("addr", one.addr()))
	}
	return l, nil
}

func (l *Listeners) open(section string, enabled bool, bind string, open func() (listener, error)) error {
	if !enabled {
		return nil
	}
	one, err := open()
	if err != nil {
		return fmt.Errorf("open the listener [[%s]] at %s: %w", section, bind, err)
	}
	l.list = append(l.list, one)
	return nil
}

// Close ends all listeners, at the same time. What they read is written first.
func (l *Listeners) Close() error {
	var closing sync.WaitGroup
	for _, one := range l.list {
		closing.Go(one.close)
	}
	closing.Wait()
	return nil
}

// PrepareReload reads all certificates again. On an error nothing has changed.
func (l *Listeners) PrepareReload() (apply []func() error, err error) {
	for _, one := range l.list {
		if o, ok := one.(*opentsdbListener); ok {
			step, err := o.prepareReload()
			if err != nil {
				return nil, fmt.Errorf("reload the certificate of [[opentsdb]] at %s: %w", o.config.BindAddress, err)
			}
			if step != nil {
				apply = append(apply, step)
			}
		}
	}
	return apply, nil
}

// Statistics are those of all listeners.
func (l *Listeners) Statistics(tags map[string]string) []models.Statistic {
	var out []models.Statistic
	for _, one := range l.list {
		out = append(out, one.counters().Statistics(tags)...)
	}
	return out
}

// WithDefaults is c with the defaults in place of what is 0 or empty, as the engine has them.
func (c Config) WithDefaults() Config {
	var out Config
	for _, one := range c.Graphite {
		out.Graphite = append(out.Graphite, *one.WithDefaults())
	}
	for _, one := range c.Collectd {
		out.Collectd = append(out.Collectd, *one.WithDefaults())
	}
	for _, one := range c.OpenTSDB {
		out.OpenTSDB = append(out.OpenTSDB, *one.WithDefaults())
	}
	for _, one := range c.UDP {
		out.UDP = append(out.UDP, *one.WithDefaults())
	}
	return out
}

// Validate returns the first bad setting of a listener that is enabled, as "[section] key: reason".
func (c Config) Validate() error {
	c = c.WithDefaults()
	for _, one := range c.Graphite {
		if !one.Enabled {
			continue
		}
		if err := validateGraphite(one); err != nil {
			return fmt.Errorf("[graphite] %w", err)
		}
	}
	for _, one := range c.Collectd {
		if !one.Enabled {
			continue
		}
		err := common(one.BindAddress, one.Database, one.BatchSize, one.BatchPending, time.Duration(one.BatchDuration))
		switch {
		case err != nil:
		case one.SecurityLevel != "none" && one.SecurityLevel != "sign" && one.SecurityLevel != "encrypt":
			err = fmt.Errorf("security-level: %q is none of none, sign, encrypt", one.SecurityLevel)
		case one.ParseMultiValuePlugin != "split" && one.ParseMultiValuePlugin != "join":
			err = fmt.Errorf("parse-multivalue-plugin: %q is neither split nor join", one.ParseMultiValuePlugin)
		default:
			err = one.Validate()
		}
		if err != nil {
			return fmt.Errorf("[collectd] %w", err)
		}
	}
	for _, one := range c.OpenTSDB {
		if !one.Enabled {
			continue
		}
		err := common(one.BindAddress, one.Database, one.BatchSize, one.BatchPending, time.Duration(one.BatchTimeout))
		if err == nil {
			_, err = parseLevel(one.ConsistencyLevel)
		}
		if err != nil {
			return fmt.Errorf("[opentsdb] %w", err)
		}
	}
	for _, one := range c.UDP {
		if !one.Enabled {
			continue
		}
		if err := validateUDP(one); err != nil {
			return fmt.Errorf("[udp] %w", err)
		}
	}
	return nil
}

func validateGraphite(c graphite.Config) error {
	if err := common(c.BindAddress, c.Database, c.BatchSize, c.BatchPending,
		time.Duration(c.BatchTimeout)); err != nil {
		return err
	}
	if p := strings.ToLower(c.Protocol); p != "tcp" && p != "udp" {
		return fmt.Errorf("protocol: %q is neither tcp nor udp", c.Protocol)
	}
	if c.UDPReadBuffer < 0 {
		return errors.New("udp-read-buffer: must not be below 0")
	}
	if _, err := parseLevel(c.ConsistencyLevel); err != nil {
		return err
	}
	tags := graphite.Config{Tags: c.Tags}
	if err := tags.Validate(); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	_, err := graphite.NewParserWithOptions(graphite.Options{
		Templates: c.Templates, DefaultTags: c.DefaultTags(), Separator: c.Separator,
	})
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}

// maxWriters of one UDP listener. More than the machine has processors are of little use.
const maxWriters = 1024

func validateUDP(c udp.Config) error {
	err := common(c.BindAddress, c.Database, c.BatchSize, c.BatchPending, time.Duration(c.BatchTimeout))
	if err != nil {
		return err
	}
	switch c.Precision {
	case "n", "u", "ms", "s", "m", "h":
	default:
		return fmt.Errorf("precision: %q is none of n, u, ms, s, m, h", c.Precision)
	}
	if c.Writers < 0 || c.Writers > maxWriters {
		return fmt.Errorf("writers: must be from 1 to %d", maxWriters)
	}
	if _, err := c.ReadBuffer.ToInt(); err != nil {
		return fmt.Errorf("read-buffer: %w", err)
	}
	return nil
}

// maxWaiting points of a listener may wait in memory.
const maxWaiting = 10_000_000

// common checks what all listeners have.
func common(bind, database string, size, pending int, wait time.Duration) error {
	if _, _, err := net.SplitHostPort(bind); err != nil {
		return fmt.Errorf("bind-address: %w", err)
	}
	switch {
	case database == "":
		return errors.New("database: must be set")
	case size < 0:
		return errors.New("batch-size: must not be below 0")
	case pending < 0:
		return errors.New("batch-pending: must not be below 0")
	case size > maxWaiting/pending:
		return fmt.Errorf("batch-size: times batch-pending must be %d points at most", maxWaiting)
	case wait < 0:
		return errors.New("batch-timeout: must not be below 0")
	}
	return nil
}

func parseLevel(level string) (models.ConsistencyLevel, error) {
	l, err := models.ParseConsistencyLevel(level)
	if err != nil {
		return 0, fmt.Errorf("consistency-level: %q is none of any, one, quorum, all", level)
	}
	return l, nil
}

func (d Deps) target(
	db, policy string, level models.ConsistencyLevel, user string, s *stats, log *zap.Logger,
) *target {
	return &target{
		writer: d.Writer, meta: d.Meta, database: db, policy: policy, level: level, user: user, stats: s, log: log,
	}
}

// linesPerSecond of the same message in the log: clients may send bad packets as fast as they can.
const linesPerSecond = 10

// logger is the log of one listener. The statistics count all that it does not say.
func (d Deps) logger(service, bind string) *zap.Logger {
	sampled := zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, linesPerSecond, 0)
	})
	return d.Log.WithOptions(sampled).With(zap.String("service", service), zap.String("bind", bind))
}

// maxShown bytes of what a client sent are in one line of the log.
const maxShown = 200

// shown is the beginning of a text, for one line of the log.
func shown(text string) string {
	text = strings.ReplaceAll(text, "\n", "; ")
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}
