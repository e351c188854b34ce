package server_test

import (
	"testing"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/metanode"
)

// CREATE DATABASE makes the policy autogen only where the meta nodes say so.
func TestRetentionAutocreate(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		m := metatest.Start(t, func(d *metanode.Deps) {
			d.Config.SingleServer = true
			d.Config.Meta.RetentionAutocreate = on
		})
		for range 2 { // an existing database is left as it is
			if _, err := m.Execute(cluster.CreateDatabase{Name: "db"}); err != nil {
				t.Fatal(err)
			}
		}
		db := m.State().Data.Database("db")
		if got := len(db.RetentionPolicies); (got == 1) != on || (db.DefaultRetentionPolicy == "autogen") != on {
			t.Errorf("retention-autocreate %t: %d policies, the default is %q", on, got, db.DefaultRetentionPolicy)
		}
	}
}

func TestProfilesCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	for on, want := range map[bool]int{true: 200, false: 404} {
		m := metatest.Start(t, func(d *metanode.Deps) {
			d.Config.SingleServer = true
			d.Config.Meta.PprofEnabled = on
		})
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
			if code, _ := metatest.Call(t, "GET", m.URL(path)); code != want {
				t.Errorf("pprof-enabled %t: %s answers %d, want %d", on, path, code, want)
			}
		}
	}
}
