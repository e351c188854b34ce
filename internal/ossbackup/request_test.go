package ossbackup

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/snapshotter"

	"concord/internal/cluster"
)

// FuzzRequest has what a client may send: whatever comes, it is refused or bounded.
func FuzzRequest(f *testing.F) {
	data, err := (&meta.Data{Databases: []meta.DatabaseInfo{{Name: "db"}}}).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x01{}\n"))
	f.Add([]byte("\x00{\"ShardID\":3}\n"))
	f.Add(append([]byte("\x06{\"UploadSize\":3}\n"), data...))
	f.Add(binary.BigEndian.AppendUint64([]byte{byte(snapshotter.RequestShardUpdate)}, 7))
	f.Add([]byte("\xffx"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parseRequest(bytes.NewReader(in))
		if err != nil {
			return
		}
		if len(r.metadata) > maxMeta {
			t.Errorf("%d bytes of metadata are kept", len(r.metadata))
		}
		if in := spanOf(r); in.limited && r.ExportStart.IsZero() && r.ExportEnd.IsZero() && in.start > in.end {
			t.Errorf("no times are the span %+v", in)
		}
		if r.metadata == nil {
			return
		}
		d, err := decode(r.metadata)
		if err != nil {
			return
		}
		target(&cluster.State{Data: &meta.Data{}}, d, r.Request)
	})
}

func TestBadRequestsAreOneLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                    "read the type of the request",
		"\x02{}\n":                            "unknown type 2",
		"\x01{":                               "read the request",
		"\x01x\n":                             "read the request",
		"\x07abc":                             "read the ID of the shard",
		"\x06{}\n":                            "must have between 1 and",
		"\x06{\"UploadSize\":99999999}\n":     "must have between 1 and",
		"\x06{\"UploadSize\":9}\nabc":         "ended after 3 of 9 bytes",
		"\x01" + strings.Repeat(" ", maxLine): "longer than",
	} {
		_, err := parseRequest(strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.20q: %v, want %s", in, err, want)
		}
	}
}

// A client that is killed between two files closes its connection as one that is done.
func TestUploadThatWasCutFails(t *testing.T) {
	t.Parallel()
	end := string(make([]byte, tarEnd))
	for in, whole := range map[string]bool{end: true, "files" + end: true, "files": false, "": false, end[1:]: false} {
		w := &wholeTar{from: io.MultiReader(strings.NewReader(in[:len(in)/2]), strings.NewReader(in[len(in)/2:]))}
		if _, err := io.ReadAll(w); (err == nil) != whole || (w.failure() == nil) != whole {
			t.Errorf("%d bytes: %v, %v", len(in), err, w.failure())
		}
	}
}

// The tools append the next attempt to what they have of one that broke off.
func TestBrokenAnswerIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	var b broken
	p := part{"here", 3}
	if err := b.check(p); err != nil {
		t.Error(err)
	}
	b.note(p)
	if b.check(p) == nil || b.check(part{"here", 4}) != nil || b.check(part{"there", 3}) != nil {
		t.Error("not the part alone that broke off is refused")
	}
}

func TestOnlyNewDatabasesAreRestored(t *testing.T) {
	t.Parallel()
	d := &meta.Data{
		Databases: []meta.DatabaseInfo{{Name: "_internal"},
			{Name: "a", RetentionPolicies: []meta.RetentionPolicyInfo{{Name: "rp"}}}},
		Users: []meta.UserInfo{{Name: "u", Admin: true}},
	}
	st := &cluster.State{Data: &meta.Data{Databases: []meta.DatabaseInfo{{Name: "_internal"}, {Name: "b"}}}}
	for want, r := range map[string]snapshotter.Request{
		"":              {},
		"is there":      {BackupDatabase: "a", RestoreDatabase: "b"},
		"does not have": {BackupDatabase: "x"},
		"policy":        {BackupDatabase: "a", BackupRetentionPolicy: "x"},
		"needs -db":     {RestoreDatabase: "c"},
		"-rp needs":     {BackupRetentionPolicy: "rp"},
	} {
		target, err := target(st, d, r)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
		if bytes.Contains(target.Meta, []byte("_internal")) {
			t.Error("_internal is restored")
		}
	}
}
