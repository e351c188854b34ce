package ctl

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/pgzip"
	"github.com/spf13/cobra"

	"concord/internal/backup"
	"concord/internal/cli"
)

// backupFlags are the flags of `backup`, as documented for InfluxDB Enterprise. There are many fields because each
// flag is one.
type backupFlags struct {
	strategy, db, rp, from, start, end, level string
	profile                                   string // file
	full, estimate                            bool
	shard                                     uint64
	bufsize                                   int
	blockCount, blockSize                     int // of gzip
	wait, staleness                           time.Duration
}

func (c *client) backup() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use: "backup <dir>", Short: "Back up the cluster, or a database, policy or shard of it",
		Args: args("[dir]"),
		Example: "  influxd-ctl backup /backups/mon                    # what changed since the last backup there\n" +
			"  influxd-ctl backup -strategy full /backups/mon\n" +
			"  influxd-ctl backup -db telegraf -rp autogen /backups/telegraf\n" +
			"  influxd-ctl backup -start 2026-01-01T00:00:00Z -end 2026-06-01T00:00:00Z /backups/spring\n" +
			"  influxd-ctl backup -estimate",
		Long: "Back up the cluster, or a database, policy or shard of it.\n\n" +
			"A shard that cannot be read, or only from a copy that lacks something, is named on standard error and in the " +
			"manifest.\n" +
			"The backup goes on with the other shards, and ends with exit code 3.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !f.estimate {
				return missing(cmd, "dir")
			}
			b, err := newBackup(c.patient(), f, strings.Join(args, ""), cmd)
			if err != nil {
				return err
			}
			stop, err := profile(f.profile)
			if err != nil {
				return err
			}
			return errors.Join(b.run(cmd.Context()), stop())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.strategy, "strategy", "incremental",
		"full, incremental (shards that changed since the last backup in <dir>) or only-meta")
	fl.BoolVar(&f.full, "full", false, "the same as -strategy full")
	fl.StringVar(&f.db, "db", "", "only this database")
	fl.StringVar(&f.rp, "rp", "", "only this retention policy of -db")
	fl.Uint64Var(&f.shard, "shard", 0, "only this shard")
	fl.StringVar(&f.from, "from", "", "TCP address of the data node to read from, where it has a copy")
	fl.StringVar(&f.start, "start", "", "only blocks with points at or after this time (RFC 3339)")
	fl.StringVar(&f.end, "end", "", "only blocks with points at or before this time (RFC 3339)")
	fl.BoolVar(&f.estimate, "estimate", false,
		"say how much there is to back up, and back up nothing; without <dir>, of a first backup")
	fl.StringVar(&f.level, "gzipCompressionLevel", "default", "default, full, speedy or none")
	fl.DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait for a whole copy of each shard")
	fl.DurationVar(&f.staleness, "staleness-threshold", 0,
		"leave a shard out of an incremental backup that changed by no more than this after what is in <dir>: writes in that "+
			"time are not backed up")
	fl.IntVar(&f.bufsize, "bufsize", 1<<20, "bytes that are written at once")
	fl.IntVar(&f.blockCount, "gzipBlockCount", runtime.GOMAXPROCS(0), "blocks that are compressed at the same time")
	fl.IntVar(&f.blockSize, "gzipBlockSize", 1<<20, "bytes of such a block")
	fl.StringVar(&f.profile, "cpuprofile", "", "write a CPU profile of this command to a file")
	return cmd
}

// profile begins to write a CPU profile to path. stop ends it; both do nothing for an empty path.
func profile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("-cpuprofile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("-cpuprofile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// The bounds of -gzipBlockSize and -gzipBlockCount: the library needs more than 16 KiB, and holds all blocks in memory.
const (
	minGzipBlock  = 32 << 10
	maxGzipBlock  = 1 << 30
	maxGzipBlocks = 1024
)

// backupRun is one backup.
type backupRun struct {
	*client
	backupFlags
	dir   string
	out   io.Writer
	errs  io.Writer // what is not in the backup
	stamp string
	gzip  int
	span  url.Values // start and end
	bytes int64
	gaps  int // shards that are not in it, or not whole
}

func newBackup(c *client, f backupFlags, dir string, cmd *cobra.Command) (*backupRun, error) {
	b := &backupRun{
		client: c, backupFlags: f, dir: dir, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), span: url.Values{},
	}
	if f.full {
		b.strategy = "full"
	}
	switch b.strategy {
	case "full", "incremental", "only-meta":
	default:
		return nil, fmt.Errorf("-strategy %s is unknown: full, incremental or only-meta", b.strategy)
	}
	if f.rp != "" && f.db == "" {
		return nil, errors.New("-rp needs -db")
	}
	if f.bufsize < 1 {
		return nil, errors.New("-bufsize: must be above 0")
	}
	switch {
	case f.blockCount < 1 || f.blockCount > maxGzipBlocks:
		return nil, fmt.Errorf("-gzipBlockCount: must be from 1 to %d", maxGzipBlocks)
	case f.blockSize < minGzipBlock || f.blockSize > maxGzipBlock:
		return nil, fmt.Errorf("-gzipBlockSize: must be from %d to %d", minGzipBlock, maxGzipBlock)
	case f.staleness < 0:
		return nil, errors.New("-staleness-threshold: must not be negative")
	}
	levels := map[string]int{
		"default": gzip.DefaultCompression, "full": gzip.BestCompression, "speedy": gzip.BestSpeed,
		"none": gzip.NoCompression,
	}
	level, ok := levels[f.level]
	if !ok {
		return nil, fmt.Errorf("-gzipCompressionLevel %s is unknown: default, full, speedy or none", f.level)
	}
	b.gzip = level
	if f.start != "" || f.end != "" {
		start, end := time.Unix(0, -1<<62), time.Unix(0, 1<<62)
		for _, t := range []struct {
			name, value string
			to          *time.Time
		}{{"-start", f.start, &start}, {"-end", f.end, &end}} {
			if t.value == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, t.value)
			if err != nil {
				return nil, fmt.Errorf("%s: must be a time such as 2006-01-02T15:04:05Z", t.name)
			}
			*t.to = at
		}
		if start.After(end) {
			return nil, errors.New("-start is after -end")
		}
		b.span = url.Values{
			"start": {strconv.FormatInt(start.UnixNano(), 10)}, "end": {strconv.FormatInt(end.UnixNano(), 10)},
		}
	}
	return b, nil
}

func (b *backupRun) run(ctx context.Context) (err error) {
	began := time.Now()
	plan, err := b.plan(ctx)
	if err != nil {
		return err
	}
	if b.estimate {
		return b.printEstimate(plan)
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	var unclaim func()
	if b.stamp, unclaim, err = backup.Claim(b.dir, began); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unclaim()
		}
	}()
	m := &backup.Manifest{
		Time: began.UTC(), Limited: b.db != "" || b.rp != "" || b.shard != 0 || len(b.span) > 0,
		Database: b.db, Policy: b.rp, ShardID: b.shard, Files: []backup.Entry{},
	}
	if m.Meta, err = b.metadata(ctx); err != nil {
		return err
	}
	for _, s := range plan {
		if err := b.add(ctx, m, s); err != nil {
			return err
		}
	}
	if err := m.Save(filepath.Join(b.dir, b.stamp+".manifest")); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	fmt.Fprintf(b.out, "Backed up to %s in %s, transferred %d bytes\n", b.dir, short(time.Since(began)), b.bytes)
	return b.partial("the backup")
}

func (b *backupRun) printEstimate(plan []backup.Source) error {
	var total int64
	for _, s := range plan {
		if s.Problem != "" {
			b.lack(s, s.Problem)
		}
		if s.Node == "" {
			continue
		}
		fmt.Fprintf(b.out, "Estimated size of db %s, rp %s, shard %d on node %s: %s\n",
			s.Database, s.Policy, s.ShardID, s.Node, size(s.Size))
		total += s.Size
	}
	fmt.Fprintf(b.out, "Estimated %d shards, %d bytes (%s) before compression\n", len(plan), total, size(total))
	return b.partial("a backup")
}

// lack says what of a shard is not in the backup.
func (b *backupRun) lack(s backup.Source, why string) backup.Gap {
	b.gaps++
	g := backup.Gap{Database: s.Database, Policy: s.Policy, ShardID: s.ShardID, Reason: why}
	part := "Not backed up"
	if s.Node != "" {
		part = "Not whole, read from " + s.Node + " all the same"
	}
	fmt.Fprintf(b.errs, "%s: %s\n", part, g)
	return g
}

// partial is the error of a backup with gaps.
func (b *backupRun) partial(what string) error {
	if b.gaps == 0 {
		return nil
	}
	return cli.AsPartial(fmt.Errorf("%s is partial, see the shards named above (%d): run it again when their owners are "+
		"up and have caught up", what, b.gaps))
}

// add backs up a shard. When its source fails, another owner is tried once; what cannot be read then becomes a gap of
// the manifest. An error is one of this machine's or of the meta node, with which nothing else would work either.
func (b *backupRun) add(ctx context.Context, m *backup.Manifest, s backup.Source) error {
	for try := 0; ; try++ {
		if s.Node == "" {
			m.Missing = append(m.Missing, b.lack(s, s.Problem))
			return nil
		}
		e, err := b.save(ctx, s)
		var source sourceError
		switch {
		case err == nil:
			if s.Problem != "" {
				b.lack(s, s.Problem)
			}
			m.Files = append(m.Files, e)
			return nil
		case !errors.As(err, &source) || ctx.Err() != nil:
			return err
		case try > 0:
			s.Node, s.Problem = "", fmt.Sprintf("%s cannot be read: %v", s.Node, source)
			continue
		}
		again, err := b.ask(ctx, s.ShardID)
		if err != nil {
			return err
		}
		if len(again) == 0 {
			return nil // it was dropped, or became empty, meanwhile
		}
		s = again[0]
	}
}

// sourceError is one of the copy that is read, not of this machine.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// plan is which shards to read, and from where: for an incremental backup those
// that changed since the newest file in the folder.
func (b *backupRun) plan(ctx context.Context) ([]backup.Source, error) {
	if b.strategy == "only-meta" {
		return nil, nil
	}
	plan, err := b.ask(ctx, b.shard)
	if err != nil || b.strategy == "full" || b.dir == "" {
		return plan, err
	}
	have, err := backup.LoadDir(b.dir)
	if err != nil {
		return nil, err
	}
	newest := map[uint64]int64{}
	for _, e := range have.Shards {
		if e.Whole() {
			newest[e.ShardID] = e.LastModified
		}
	}
	var changed []backup.Source
	for _, s := range plan {
		last, ok := newest[s.ShardID]
		// What cannot be read may have changed.
		if s.Problem != "" || !ok || s.LastModified-last > int64(b.staleness) {
			changed = append(changed, s)
		}
	}
	return changed, nil
}

// ask asks the meta node which copies to read, of one shard or, with 0, of all that the flags name.
func (b *backupRun) ask(ctx context.Context, shard uint64) (plan []backup.Source, err error) {
	params := url.Values{"db": {b.db}, "rp": {b.rp}, "from": {b.from}, "wait": {b.wait.String()}}
	if shard != 0 {
		params.Set("shard", strconv.FormatUint(shard, 10))
	}
	err = b.call(ctx, http.MethodGet, "/backup/plan", params, &plan)
	return plan, err
}

func (b *backupRun) metadata(ctx context.Context) (backup.Meta, error) {
	began := time.Now()
	fmt.Fprint(b.out, "Backing up meta data... ")
	m := backup.Meta{FileName: b.stamp + ".meta"}
	var err error
	m.Size, m.SHA256, err = backup.Write(filepath.Join(b.dir, m.FileName), func(w io.Writer) error {
		return b.fetch(ctx, "/backup/meta", nil, w)
	})
	if err != nil {
		fmt.Fprintln(b.out)
		return m, fmt.Errorf("back up meta data: %w", err)
	}
	b.bytes += m.Size
	fmt.Fprintf(b.out, "Done. Backed up in %s, %d bytes transferred\n", short(time.Since(began)), m.Size)
	return m, nil
}

func (b *backupRun) save(ctx context.Context, s backup.Source) (backup.Entry, error) {
	began := time.Now()
	fmt.Fprintf(b.out, "Backing up node %s, db %s, rp %s, shard %d... ", s.Node, s.Database, s.Policy, s.ShardID)
	e := backup.Entry{
		Database: s.Database, Policy: s.Policy, ShardID: s.ShardID, LastModified: s.LastModified,
		FileName: fmt.Sprintf("%s.s%d.tar.gz", b.stamp, s.ShardID), Partial: len(b.span) > 0, Incomplete: s.Problem,
	}
	params := url.Values{"shard": {strconv.FormatUint(s.ShardID, 10)}, "from": {s.Node}}
	if s.Problem != "" {
		params.Set("incomplete", "true")
	}
	for k, v := range b.span {
		params[k] = v
	}
	var err error
	e.Size, e.SHA256, err = backup.Write(filepath.Join(b.dir, e.FileName), func(w io.Writer) error {
		z, err := pgzip.NewWriterLevel(w, b.gzip)
		if err == nil {
			err = z.SetConcurrency(b.blockSize, b.blockCount)
		}
		if err != nil {
			return err
		}
		to := &noted{w: z}
		err = b.fetch(ctx, "/backup/shard", params, to)
		if err != nil && to.err == nil {
			err = sourceError{err}
		}
		if closing := z.Close(); err == nil { // it also ends the goroutines that compress
			err = closing
		}
		return err
	})
	if err != nil {
		fmt.Fprintln(b.out)
		return e, fmt.Errorf("back up shard %d: %w", s.ShardID, err)
	}
	b.bytes += e.Size
	fmt.Fprintf(b.out, "Done. Backed up in %s, %d bytes transferred\n", short(time.Since(began)), e.Size)
	return e, nil
}

// noted is a writer that remembers its error.
type noted struct {
	w   io.Writer
	err error
}

func (n *noted) Write(b []byte) (int, error) {
	m, err := n.w.Write(b)
	n.err = err
	return m, err
}

// fetch copies an answer of the meta node to w.
func (b *backupRun) fetch(ctx context.Context, path string, params url.Values, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.send(ctx, http.MethodGet, path, params, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{resp.Body}, make([]byte, b.bufsize))
	return err
}

// short rounds a duration for people.
func short(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
