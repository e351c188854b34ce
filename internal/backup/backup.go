// Package backup is the format of backups: manifests and the files that they
// name. It reads those of InfluxDB 1.x (influxd backup -portable), too.
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	"concord/internal/durable"
)

// Stamp names the files of one backup by its time.
const Stamp = "20060102T150405Z"

// pendingSuffix ends the name of a file until all of it is there.
const pendingSuffix = ".pending"

// version of manifests; those of InfluxDB have none.
const version = 1

// Manifest lists the files of one backup: <stamp>.manifest. Its fields are those of
// InfluxDB's portable backups, and a version and checksums.
type Manifest struct {
	Version int       `json:"version,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	Meta    Meta      `json:"meta"`
	Limited bool      `json:"limited"` // not the whole cluster
	Files   []Entry   `json:"files"`
	// What it is limited to.
	Database string `json:"database,omitempty"`
	Policy   string `json:"policy,omitempty"`
	ShardID  uint64 `json:"shard_id,omitempty"`
	// Missing are the shards of which nothing could be read.
	Missing []Gap `json:"missing,omitempty"`
}

// Gap is a shard that a backup lacks, or has a part of.
type Gap struct {
	Database string `json:"database"`
	Policy   string `json:"policy"`
	ShardID  uint64 `json:"shardID"`
	Reason   string `json:"reason"`
}

func (g Gap) String() string {
	return fmt.Sprintf("shard %d of %s.%s: %s", g.ShardID, g.Database, g.Policy, g.Reason)
}

// Meta is the file with the metadata.
type Meta struct {
	FileName string `json:"fileName"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256,omitempty"`
}

// Entry is the file of one shard: a gzipped tar of its TSM files.
type Entry struct {
	Database     string `json:"database"`
	Policy       string `json:"policy"`
	ShardID      uint64 `json:"shardID"`
	FileName     string `json:"fileName"`
	Size         int64  `json:"size"`
	LastModified int64  `json:"lastModified"` // of the shard, nanoseconds
	SHA256       string `json:"sha256,omitempty"`
	Partial      bool   `json:"partial,omitempty"` // of a backup with -start or -end: not all of the shard's files
	// Incomplete is why the copy that was read may lack points; empty for a whole one.
	Incomplete string `json:"incomplete,omitempty"`
}

// Whole reports whether the file has all of the shard, as it was when it was read.
func (e Entry) Whole() bool { return !e.Partial && e.Incomplete == "" }

// Write makes a file durable under its name once all of it is there: until then
// it is called .pending. It returns the size and the checksum.
func Write(path string, fill func(io.Writer) error) (size int64, sum string, err error) {
	h := sha256.New()
	w := &counter{}
	err = durable.Replace(path, path+pendingSuffix, 0o600, func(f *os.File) error {
		w.Writer = io.MultiWriter(f, h)
		return fill(w)
	})
	if err != nil {
		return 0, "", err
	}
	return w.n, hex.EncodeToString(h.Sum(nil)), nil
}

// counter counts the bytes that are written.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// Claim finds a name for a backup of the folder that no other one has: the time,
// or a later second. unclaim gives the name of a backup that failed back.
func Claim(dir string, at time.Time) (stamp string, unclaim func(), err error) {
	for ; ; at = at.Add(time.Second) {
		stamp = at.UTC().Format(Stamp)
		manifest := filepath.Join(dir, stamp+".manifest")
		// The pending manifest is there first: whoever is later sees one or the other.
		f, err := os.OpenFile(manifest+pendingSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			return "", nil, err
		}
		unclaim = func() { os.Remove(f.Name()) }
		f.Close()
		if _, err := os.Stat(manifest); errors.Is(err, os.ErrNotExist) {
			return stamp, unclaim, nil
		} else if unclaim(); err != nil {
			return "", nil, err
		}
	}
}

// Save writes the manifest, the last file of a backup.
func (m *Manifest) Save(path string) error {
	m.Version = version
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	_, _, err = Write(path, func(w io.Writer) error { _, err := w.Write(append(b, '\n')); return err })
	return err
}

// Load reads one manifest.
func Load(path string) (*Manifest, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s is not a valid manifest: %w", path, err)
	}
	if m.Version > version {
		return nil, fmt.Errorf("%s has version %d, this build reads %d", path, m.Version, version)
	}
	if m.Meta.FileName == "" {
		return nil, fmt.Errorf("%s names no metadata", path)
	}
	for _, e := range append([]string{m.Meta.FileName}, m.names()...) {
		if filepath.Base(e) != e || e == "." || e == ".." {
			return nil, fmt.Errorf("%s names a file outside of its folder: %q", path, e)
		}
	}
	return m, nil
}

func (m *Manifest) names() (out []string) {
	for _, e := range m.Files {
		out = append(out, e.FileName)
	}
	return out
}

// Set is what a folder of backups holds, or one manifest: the newest metadata,
// and the newest file of each shard, one that is not whole only where no whole one is.
type Set struct {
	Dir    string
	Meta   Meta
	Shards []Entry // by ascending shard ID
	Gaps   []Gap   // what the newest backup of a shard could not read; by ascending shard ID
}

// LoadDir joins all manifests of a folder, full and incremental ones.
func LoadDir(dir string) (*Set, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.manifest"))
	if err != nil {
		return nil, err
	}
	sort.Sort(sort.Reverse(sort.StringSlice(paths))) // the newest first
	s := &Set{Dir: dir}
	newest := map[uint64]Entry{}
	gaps := gapsByShard{}
	for _, p := range paths {
		m, err := Load(p)
		if err != nil {
			return nil, err
		}
		if s.Meta.FileName == "" {
			s.Meta = m.Meta
		}
		for _, e := range m.Files {
			have, ok := newest[e.ShardID]
			if !ok || !have.Whole() && e.Whole() || have.Whole() == e.Whole() && e.LastModified > have.LastModified {
				newest[e.ShardID] = e
			}
		}
		gaps.add(m)
	}
	s.add(newest, gaps)
	return s, nil
}

// gapsByShard are the gaps of the newest manifest that says something of a shard; nil for one that had all of it.
type gapsByShard map[uint64]*Gap

// add adds what an older manifest says of other shards.
func (g gapsByShard) add(m *Manifest) {
	for _, e := range m.Files {
		if _, ok := g[e.ShardID]; ok || e.Partial && e.Incomplete == "" {
			continue
		}
		g[e.ShardID] = nil
		if e.Incomplete != "" {
			g[e.ShardID] = &Gap{Database: e.Database, Policy: e.Policy, ShardID: e.ShardID, Reason: e.Incomplete}
		}
	}
	for _, gap := range m.Missing {
		if _, ok := g[gap.ShardID]; !ok {
			g[gap.ShardID] = &gap
		}
	}
}

// LoadManifest is one manifest alone.
func LoadManifest(path string) (*Set, error) {
	m, err := Load(path)
	if err != nil {
		return nil, err
	}
	s := &Set{Dir: filepath.Dir(path), Meta: m.Meta}
	files := map[uint64]Entry{}
	for _, e := range m.Files {
		files[e.ShardID] = e
	}
	gaps := gapsByShard{}
	gaps.add(m)
	s.add(files, gaps)
	return s, nil
}

func (s *Set) add(files map[uint64]Entry, gaps gapsByShard) {
	for _, e := range files {
		s.Shards = append(s.Shards, e)
	}
	for _, g := range gaps {
		if g != nil {
			s.Gaps = append(s.Gaps, *g)
		}
	}
	sort.Slice(s.Shards, func(i, j int) bool { return s.Shards[i].ShardID < s.Shards[j].ShardID })
	sort.Slice(s.Gaps, func(i, j int) bool { return s.Gaps[i].ShardID < s.Gaps[j].ShardID })
}

// Verify reads a file through, and compares size and checksum with the manifest. Without a checksum, as in manifests of
// InfluxDB OSS, the size is that before compression, and says nothing.
func (s *Set) Verify(name string, size int64, sum string) error {
	path := filepath.Join(s.Dir, name)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if sum != "" && n != size {
		return fmt.Errorf("%s has %d bytes, its manifest says %d: the backup is damaged", path, n, size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); sum != "" && got != sum {
		return fmt.Errorf("%s does not match its checksum: the backup is damaged", path)
	}
	return nil
}

// Metadata reads the file with the metadata of the set. Package portable decodes it, which the meta node does before it
// restores anything.
func (s *Set) Metadata() ([]byte, error) { return os.ReadFile(filepath.Join(s.Dir, s.Meta.FileName)) }
