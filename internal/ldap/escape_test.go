package ldap

import (
	"strings"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"
)

func checkEscaped(t *testing.T, name string) {
	t.Helper()
	p, err := goldap.CompileFilter(strings.ReplaceAll("(uid=%s)", "%s", goldap.EscapeFilter(name)))
	if err != nil {
		t.Fatalf("%q: %v", name, err)
	}
	if name != "" && (p.Tag != goldap.FilterEqualityMatch || p.Children[1].Data.String() != name) {
		t.Errorf("%q is asked as something else", name)
	}
}
