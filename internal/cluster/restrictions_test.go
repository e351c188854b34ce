package cluster

import (
	"strings"
	"testing"

	"concord/internal/restrict"
)

func TestRulesSurviveEncodingAndLeaveWithTheirUsers(t *testing.T) {
	s := NewState()
	index := uint64(0)
	do := func(op Op) error {
		index++
		c, err := NewCommand(op)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Apply(index, c)
		return err
	}
	must := func(op Op) {
		t.Helper()
		if err := do(op); err != nil {
			t.Fatal(err)
		}
	}
	plain, err := s.MarshalBinary()
	if err != nil || plain[len(magic)] != version {
		t.Fatalf("without rules: version %d, %v", plain[len(magic)], err)
	}
	all := restrict.Rule{Database: &restrict.Match{Match: restrict.Prefix}, Permissions: []string{restrict.Read}}
	must(CreateUser{Name: "u", Hash: "h"})
	must(CreateRole{Name: "r"})
	must(SetRole{Name: "r", Role: Role{Name: "r2", Users: []string{"u"}}})
	must(CreateRestriction{Restriction: restrict.Restriction{Rule: all}})
	must(CreateRestriction{Restriction: restrict.Restriction{Rule: all}}) // which exists
	must(CreateGrant{Grant: restrict.Grant{Rule: all, Roles: []restrict.Name{{Name: "r2"}}}})
	must(SetRole{Name: "r2", Role: Role{Name: "r3", Users: []string{"u"}}})
	if err := do(CreateGrant{Grant: restrict.Grant{Rule: all, Users: []restrict.Name{{Name: "nobody"}}}}); err == nil ||
		!strings.Contains(err.Error(), "user not found") {
		t.Errorf("a grant for nobody: %v", err)
	}
	b, err := s.MarshalBinary()
	if err != nil || b[len(magic)] != ruled {
		t.Fatalf("with rules: version %d, %v", b[len(magic)], err)
	}
	read := NewState()
	if err := read.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if len(read.Restrictions) != 1 || len(read.FineGrants) != 1 || read.FineGrants[0].ID != "2" || read.MaxRuleID != 2 {
		t.Errorf("read back: %+v %+v %d", read.Restrictions, read.FineGrants, read.MaxRuleID)
	}
	if u := read.Restricted(read.User("u")); u == nil || !u.Reads("db").Allows([]byte("m"), nil) {
		t.Error("the grant of a renamed role is gone")
	}
	must(DropRole{Name: "r3"})
	if len(s.FineGrants) != 0 || s.Restricted(s.User("u")).Reads("db").Allows([]byte("m"), nil) {
		t.Errorf("the grant of a dropped role is still there: %+v", s.FineGrants)
	}
}
