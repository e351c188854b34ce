package client_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/meta/client"
	"concord/internal/meta/metatest"
)

// engineReads are the methods of the engine's client that change nothing. They answer from the copy.
var engineReads = []string{
	"AdminUserExists", "Authenticate", "ClusterID", "Data", "Database", "Databases", "MarshalBinary", "RetentionPolicy",
	"ShardGroupsByTimeRange", "ShardIDs", "ShardOwner", "ShardsByTimeRange", "User", "UserCount",
	"UserPrivilege", "UserPrivileges", "Users", "WaitForDataChanged",
}

// Every other method of the engine's client is one of ours, and fails on a node without a cluster. One that the engine
// gets in a later version must not change the copy of one node alone.
func TestNoMethodOfTheEngineChangesTheCopyAlone(t *testing.T) {
	t.Parallel()
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	engine := reflect.TypeFor[*emeta.Client]()
	for i := range engine.NumMethod() {
		name := engine.Method(i).Name
		if slices.Contains(engineReads, name) || name == "Close" || name == "WithLogger" {
			continue
		}
		method := reflect.ValueOf(c).MethodByName(name)
		var args []reflect.Value
		for i := range method.Type().NumIn() {
			if in := method.Type().In(i); in.Kind() == reflect.Pointer {
				args = append(args, reflect.New(in.Elem()))
			} else {
				args = append(args, reflect.Zero(in))
			}
		}
		results := method.Call(args)
		err, _ := results[len(results)-1].Interface().(error)
		if !errors.Is(err, client.ErrNotJoined) && !errors.Is(err, client.ErrReplace) {
			t.Errorf("%s is the engine's own: %v", name, err)
		}
	}
}
