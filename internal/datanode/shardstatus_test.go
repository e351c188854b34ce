package datanode

import (
	"testing"

	"concord/internal/entropy"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

func TestStateOfACopyInTheWordsOfEnterprise(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		missing bool
		lacks   string
		differs entropy.Status
		repair  entropy.RepairState
		want    string
	}{
		"nothing is known":                  {want: wire.Healthy},
		"it was repaired":                   {repair: entropy.Done, want: wire.Healthy},
		"no file is there":                  {missing: true, want: wire.RestorePending},
		"writes wait for it elsewhere":      {lacks: "hints wait", want: wire.RestorePending},
		"it lacks something, and waits":     {missing: true, repair: entropy.Waiting, want: wire.RestorePending},
		"it is being made anew":             {missing: true, repair: entropy.Running, want: wire.Restoring},
		"it lacks something, and gets it":   {lacks: "wiped", repair: entropy.Running, want: wire.Restoring},
		"owners differ":                     {differs: entropy.Diff, want: wire.Repairing},
		"another owner lacks something":     {differs: entropy.Missing, want: wire.Repairing},
		"owners are compared and patched":   {repair: entropy.Running, want: wire.Repairing},
		"a repair waits":                    {repair: entropy.Waiting, want: wire.Repairing},
		"a repair failed":                   {differs: entropy.Diff, repair: entropy.Failed, want: wire.ErrorProcessing},
		"the repair of a lost copy failed":  {missing: true, repair: entropy.Failed, want: wire.ErrorProcessing},
		"an owner refuses points of others": {differs: entropy.Conflict, want: wire.ErrorProcessing},
	} {
		f := findings{
			differs: map[uint64]entropy.Status{1: tt.differs}, repairs: map[uint64]entropy.RepairState{1: tt.repair},
			lacking: map[uint64]string{1: tt.lacks},
		}
		if got := f.state(&rpc.ShardDescription{ShardId: 1, Exists: !tt.missing}); got != tt.want {
			t.Errorf("%s: the state is %q, want %q", name, got, tt.want)
		}
	}
}
