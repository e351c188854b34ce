package restrict

import (
	"reflect"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/models"
)

const network = `{"database": {"match": "exact", "value": "my_database"},
	"measurement": {"match": "exact", "value": "network"},
	"tags": [{"match": "exact", "key": "datacenter", "value": "east"}], "permissions": ["read", "write"]}`

func TestDocumentedRulesDecide(t *testing.T) {
	r, err := ParseRestriction(strings.NewReader(`{"database": {"match": "exact", "value": "my_database"},
		"measurement": {"match": "exact", "value": "network"}, "permissions": ["read", "write"]}`))
	if err != nil {
		t.Fatal(err)
	}
	g, err := ParseGrant(strings.NewReader(`{"database": {"match": "prefix", "value": "my_"},
		"tags": [{"match": "prefix", "key": "datacenter", "value": "ea"}], "permissions": ["read"],
		"users": [{"name": "user1"}], "roles": [{"name": "role1"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	u := &User{Restrictions: []Rule{r.Rule}, Grants: []Rule{g.Rule}}
	for _, tt := range []struct {
		db, name, tags string
		read, write    bool
	}{
		{"my_database", "network", "datacenter=east", true, false},
		{"my_database", "network", "datacenter=east,foo=bar", true, false},
		{"my_database", "network", "datacenter=west", false, false},
		{"my_database", "network", "", false, false},
		{"my_database", "networks", "datacenter=west", true, true},
		{"your_database", "network", "", true, true},
	} {
		key := tt.name
		if tt.tags != "" {
			key += "," + tt.tags
		}
		name, tags := models.ParseKeyBytes([]byte(key))
		if got := u.AuthorizeSeriesRead(tt.db, name, tags); got != tt.read {
			t.Errorf("%s: %s may be read: %t", tt.db, key, got)
		}
		if got := u.AuthorizeSeriesWrite(tt.db, name, tags); got != tt.write {
			t.Errorf("%s: %s may be written: %t", tt.db, key, got)
		}
	}
	if u.Reads("your_database") != nil {
		t.Error("a database without restrictions has a filter")
	}
}

func TestBadRuleIsOneClearLine(t *testing.T) {
	for body, want := range map[string]string{
		``:   "body",
		`{}`: "database: needs",
		`{"database": {"match": "regex", "value": "a"}, "permissions": ["read"]}`:                               `match "regex" is unknown`,
		`{"database": {"match": "exact", "value": ""}, "permissions": ["read"]}`:                                "needs a value",
		`{"database": {"match": "exact", "value": "a"}}`:                                                        "permissions: needs",
		`{"database": {"match": "exact", "value": "a"}, "permissions": ["delete"]}`:                             `"delete" is unknown`,
		`{"database": {"match": "exact", "value": "a"}, "permissions": ["read"], "measurment": {}}`:             "unknown field",
		`{"database": {"match": "exact", "value": "a"}, "permissions": ["read"], "id": "7"}`:                    "id:",
		`{"database": {"match": "exact", "value": "a"}, "permissions": ["read"], "tags": [{}]}`:                 "needs a key",
		`{"database": {"match": "exact", "value": "a"}, "permissions": ["read"]} {}`:                            "something follows",
		`{"database": {"match": "exact", "value": "a"}, "measurement": {"match": ""}, "permissions": ["read"]}`: "measurement:",
	} {
		_, err := ParseRestriction(strings.NewReader(body))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", body, err)
		}
	}
	if _, err := ParseGrant(strings.NewReader(network)); err == nil ||
		!strings.Contains(err.Error(), "users or roles") {
		t.Errorf("a grant for nobody: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"restrictions":[` + network + `]}`))
	f.Add([]byte(`{"restrictions":[],"grants":[` + network + `]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		filter, err := Decode(b)
		if err != nil {
			return
		}
		filter.Allows([]byte("network"), models.NewTags(map[string]string{"datacenter": "east"}))
		filter.Condition("network")
		again, err := filter.Encode()
		if err != nil {
			t.Skip() // too large
		}
		other, err := Decode(again)
		if err != nil || !reflect.DeepEqual(filter.restrictions, other.restrictions) {
			t.Errorf("%s: %v", again, err)
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	f.Add(network)
	f.Add(strings.Replace(network, "}]", `}], "users": [{"name": "a"}]`, 1))
	f.Fuzz(func(t *testing.T, body string) {
		g, err := ParseGrant(strings.NewReader(body))
		if err == nil && (g.Database == nil || len(g.Permissions) == 0 || len(g.Users)+len(g.Roles) == 0) {
			t.Errorf("%s became %+v", body, g)
		}
	})
}

// A user without restrictions has no filter, and so nothing is looked at for each series.
func BenchmarkNoRestrictions(b *testing.B) {
	var u *User
	name, tags := models.ParseKeyBytes([]byte("network,datacenter=east,host=a"))
	b.ReportAllocs()
	for b.Loop() {
		if f := u.Reads("db"); f != nil && !f.Allows(name, tags) {
			b.Fatal("refused")
		}
	}
}
