package ctl

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/backup"
	"concord/internal/cli"
)

// restoreFlags are those of `restore`, as documented for InfluxDB Enterprise.
type restoreFlags struct {
	full, list, overwrite bool
	backup.Target
}

func (c *client) restore() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore <dir-or-manifest>",
		Short: "Restore a backup, also one of InfluxDB 1.x (influxd backup -portable)", Args: args("dir-or-manifest"),
		Long: "Restore the backups of a folder, or with -full the one of a manifest, also one of InfluxDB 1.x " +
			"(influxd backup " +
			"-portable).",
		Example: "  influxd-ctl restore /backups/mon\n" +
			"  influxd-ctl restore -list /backups/mon\n" +
			"  influxd-ctl restore -full /backups/mon/20261124T004500Z.manifest\n" +
			"  influxd-ctl restore -db telegraf -newdb telegraf_old -newrf 3 /backups/mon",
		RunE: func(cmd *cobra.Command, args []string) error {
			return (&restoreRun{
				client: c.patient(), restoreFlags: f, path: args[0], out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(),
			}).run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.full, "full", false, "restore the backup of one manifest, not all of a folder")
	fl.BoolVar(&f.list, "list", false, "list what the backup has, and restore nothing")
	fl.StringVar(&f.Database, "db", "", "only this database")
	fl.StringVar(&f.Policy, "rp", "", "only this retention policy")
	fl.Uint64Var(&f.Shard, "shard", 0, "only this shard")
	fl.StringVar(&f.NewDB, "newdb", "", "name of -db after the restore")
	fl.StringVar(&f.NewPolicy, "newrp", "", "name of -rp after the restore")
	fl.IntVar(&f.Replicas, "newrf", 0, "replication factor after the restore")
	fl.StringVar(&f.Duration, "newduration", "", "duration of the policies after the restore")
	fl.Uint64Var(&f.NewShard, "newshard", 0, "restore -shard into this shard, which must be empty")
	fl.BoolVar(&f.overwrite, "meta-only-overwrite-force", false,
		"restore metadata alone, over policies and users that are there")
	return cmd
}

// restoreRun is one restore.
type restoreRun struct {
	*client
	restoreFlags
	path  string
	out   io.Writer
	errs  io.Writer // what the backup lacks
	set   *backup.Set
	bytes int64
}

func (r *restoreRun) run(ctx context.Context) (err error) {
	began := time.Now()
	if r.full {
		r.set, err = backup.LoadManifest(r.path)
	} else {
		r.set, err = backup.LoadDir(r.path)
	}
	if err != nil {
		return err
	}
	if r.set.Meta.FileName == "" {
		return fmt.Errorf("there is no backup in %s: no file ends in .manifest", r.path)
	}
	if r.list {
		return r.print()
	}
	if r.full {
		fmt.Fprintf(r.out, "Using manifest: %s\n", r.path)
	} else {
		fmt.Fprintf(r.out, "Using backup directory: %s\nUsing meta backup: %s\n", r.set.Dir, r.set.Meta.FileName)
	}
	files, err := r.verify()
	if err != nil {
		return err
	}
	maps, err := r.metadata(ctx, files)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if err := r.shard(ctx, files[m.Shard], m); err != nil {
			return err
		}
	}
	fmt.Fprintf(r.out, "Restored from %s in %s, transferred %d bytes\n", r.path, short(time.Since(began)), r.bytes)
	if n := r.printGaps(); n > 0 {
		return cli.AsPartial(fmt.Errorf("the backup is partial, see the shards named above (%d): everything else is restored",
			n))
	}
	return nil
}

// asked reports whether a shard of the backup is to be restored.
func (r *restoreRun) asked(database, policy string, shard uint64) bool {
	return (r.Database == "" || database == r.Database) && (r.Policy == "" || policy == r.Policy) &&
		(r.Shard == 0 || shard == r.Shard)
}

// printGaps says what the backup could not read of the asked shards, and returns of how many.
func (r *restoreRun) printGaps() (n int) {
	if r.overwrite {
		return 0
	}
	files := map[uint64]backup.Entry{}
	for _, e := range r.set.Shards {
		files[e.ShardID] = e
	}
	for _, g := range r.set.Gaps {
		if !r.asked(g.Database, g.Policy, g.ShardID) {
			continue
		}
		n++
		e, ok := files[g.ShardID]
		switch {
		case !ok:
			fmt.Fprintf(r.errs, "Not in the backup: %s\n", g)
		case e.Incomplete != "":
			fmt.Fprintf(r.errs, "Not whole in the backup: %s\n", g)
		default:
			fmt.Fprintf(r.errs, "In the backup as of %s, because a later one could not read it: %s\n",
				time.Unix(0, e.LastModified).UTC().Format(time.RFC3339), g)
		}
	}
	return n
}

func (r *restoreRun) print() error {
	rows := [][]string{{"Shard", "Database", "Policy", "Size", "Last Modified", "File"}}
	for _, e := range r.set.Shards {
		rows = append(rows, []string{strconv.FormatUint(e.ShardID, 10), e.Database, e.Policy, size(e.Size),
			time.Unix(0, e.LastModified).UTC().Format(time.RFC3339), e.FileName})
	}
	table(r.out, "Backup", rows)
	r.printGaps()
	return nil
}

// verify reads through all files that are to be restored, before anything changes.
func (r *restoreRun) verify() (map[uint64]backup.Entry, error) {
	if err := r.set.Verify(r.set.Meta.FileName, r.set.Meta.Size, r.set.Meta.SHA256); err != nil {
		return nil, err
	}
	files := map[uint64]backup.Entry{}
	if r.overwrite {
		return files, nil
	}
	for _, e := range r.set.Shards {
		if !r.asked(e.Database, e.Policy, e.ShardID) {
			continue
		}
		if err := r.set.Verify(e.FileName, e.Size, e.SHA256); err != nil {
			return nil, err
		}
		files[e.ShardID] = e
	}
	return files, nil
}

func (r *restoreRun) metadata(ctx context.Context, files map[uint64]backup.Entry) (maps []backup.Mapping, err error) {
	began := time.Now()
	b, err := r.set.Metadata()
	if err != nil {
		return nil, err
	}
	t := r.Target
	t.Meta, t.MetaOnly, t.Overwrite = b, r.overwrite, r.overwrite
	for id := range files {
		t.Shards = append(t.Shards, id)
	}
	body, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(r.out, "Restoring meta data... ")
	if err := r.post(ctx, "/restore/begin", nil, bytes.NewReader(body), &maps); err != nil {
		fmt.Fprintln(r.out)
		return nil, fmt.Errorf("restore meta data: %w", err)
	}
	r.bytes += int64(len(b))
	fmt.Fprintf(r.out, "Done. Restored in %s, %d shards mapped\n", short(time.Since(began)), len(maps))
	return maps, nil
}

func (r *restoreRun) post(ctx context.Context, path string, params url.Values, body io.Reader, out any) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := r.send(ctx, http.MethodPost, path, params, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(out)
}

func (r *restoreRun) shard(ctx context.Context, e backup.Entry, m backup.Mapping) error {
	began := time.Now()
	fmt.Fprintf(r.out, "Restoring db %s, rp %s, shard %d to shard %d...\n", m.Database, m.Policy, m.Shard, m.NewShard)
	f, err := os.Open(filepath.Join(r.set.Dir, e.FileName))
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	fmt.Fprintf(r.out, "Copying data to %s... ", strings.Join(m.Owners, ", "))
	var done backup.Restored
	if err := r.post(ctx, "/restore/shard", url.Values{"shard": {strconv.FormatUint(m.NewShard, 10)}}, z,
		&done); err != nil {
		fmt.Fprintln(r.out)
		return fmt.Errorf("restore shard %d: %w", m.Shard, err)
	}
	if len(done.Owners) == 0 {
		fmt.Fprintln(r.out)
		return fmt.Errorf("restore shard %d: none of its owners %s stored it", m.Shard, strings.Join(m.Owners, ", "))
	}
	r.bytes += e.Size
	fmt.Fprintf(r.out, "Done. Restored shard %d into shard %d in %s, %d bytes transferred\n",
		m.Shard, m.NewShard, short(time.Since(began)), e.Size)
	for _, addr := range done.Failed {
		fmt.Fprintf(r.out, "  %s did not take it: anti-entropy brings it there, and its copy is incomplete until then\n",
			addr)
	}
	return nil
}
