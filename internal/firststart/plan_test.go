package firststart

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"INFLUXDB_JOIN": "meta1:8091, meta2:8091", "INFLUXDB_LABELS": "az=north,rack=7",
		"INFLUXDB_DB": "plant", "INFLUXDB_DB_REPLICATION": "2",
		"INFLUXDB_ADMIN_USER": "root", "INFLUXDB_ADMIN_PASSWORD": "1",
		"INFLUXDB_USER": "ann", "INFLUXDB_USER_PASSWORD": "2",
		"INFLUXDB_READ_USER": "rita", "INFLUXDB_READ_USER_PASSWORD": "3",
		"INFLUXDB_WRITE_USER": "will", "INFLUXDB_WRITE_USER_PASSWORD": "4",
	}
	got, err := FromEnvironment(func(key string) string { return env[key] })
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Join:   []string{"meta1:8091", "meta2:8091"},
		Labels: map[string]string{"az": "north", "rack": "7"},
		Setup: Setup{
			Database: "plant", Replicas: 2, Admin: Account{"root", "1"}, User: Account{"ann", "2"},
			Reader: Account{"rita", "3"}, Writer: Account{"will", "4"},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestBadVariablesAreNamed(t *testing.T) {
	t.Parallel()
	for variable, value := range map[string]string{
		"INFLUXDB_JOIN": "meta1", "INFLUXDB_LABELS": "north", "INFLUXDB_DB_REPLICATION": "0",
		"INFLUXDB_ADMIN_USER": "root", "INFLUXDB_USER": "ann",
		"INFLUXDB_READ_USER": "rita", "INFLUXDB_WRITE_USER": "will",
	} {
		_, err := FromEnvironment(func(key string) string {
			if key == variable {
				return value
			}
			return ""
		})
		if err == nil || !strings.HasPrefix(err.Error(), variable+": ") {
			t.Errorf("%s=%s: %v", variable, value, err)
		}
	}
}
