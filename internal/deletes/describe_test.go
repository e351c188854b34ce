package deletes

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

func TestDeletesAreDescribedForPeople(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		delete *rpc.Delete
		want   Description
	}{
		{
			&rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Id: "1", Database: "db",
				Statement: "DELETE FROM cpu WHERE host = 'a'"},
			Description{"1", "db", "DELETE FROM cpu WHERE host = 'a'"},
		},
		{
			&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: "db", Name: `a "b"`},
			Description{"", "db", `DROP MEASUREMENT "a \"b\""`},
		},
		{&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: "../db", Name: "a"}, Description{}},
		{&rpc.Delete{Database: "db"}, Description{}},
	} {
		b, err := proto.Marshal(tt.delete)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Describe(handoff.Entry{Kind: handoff.Delete, Data: b})
		if got != tt.want || (err != nil) != (tt.want == Description{}) {
			t.Errorf("%v is described as %+v, %v; want %+v", tt.delete, got, err, tt.want)
		}
	}
	if _, err := Describe(handoff.Entry{Kind: handoff.Delete, Data: []byte{0xff}}); err == nil {
		t.Error("what is not a delete is described")
	}
}
