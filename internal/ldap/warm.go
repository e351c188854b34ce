package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"concord/internal/ldap/ldapconfig"
)

// maxWarmTime bounds how long the groups are read.
const maxWarmTime = 10 * time.Minute

// The states of a warming.
const (
	WarmNone      = "none"
	WarmRunning   = "running"
	WarmDone      = "done"
	WarmFailed    = "failed"
	WarmCancelled = "cancelled"
)

// WarmStatus is how far the last warming is.
type WarmStatus struct {
	State  string
	Groups int // that were read
	Users  int // that are known by them
	Error  string
	Began  time.Time // zero for never
	Ended  time.Time // zero while it runs
}

// warming is the last one.
type warming struct {
	mu     sync.Mutex
	status WarmStatus
	cancel context.CancelFunc
}

func (w *warming) change(fn func(*WarmStatus)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(&w.status)
}

// WarmStatus tells how far the last warming is.
func (u *Users) WarmStatus() (s WarmStatus) {
	u.warming.change(func(now *WarmStatus) { s = *now })
	if s.State == "" {
		s.State = WarmNone
	}
	return s
}

// Warm begins to read all groups that mean something, and who their members are, so that these are known before they
// log in. Their passwords are still asked for. One warming runs at a time: a second call changes nothing.
func (u *Users) Warm() error {
	c, v := u.config()
	if c == nil {
		return errors.New("LDAP is off")
	}
	w := &u.warming
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.State == WarmRunning || u.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(u.ctx, maxWarmTime)
	w.cancel = cancel
	w.status = WarmStatus{State: WarmRunning, Began: u.deps.Now()}
	u.wg.Go(func() {
		defer cancel()
		err := u.warm(ctx, c, v)
		w.change(func(s *WarmStatus) {
			s.Ended = u.deps.Now()
			switch {
			case errors.Is(ctx.Err(), context.Canceled):
				s.State = WarmCancelled
			case err != nil:
				s.State, s.Error = WarmFailed, err.Error()
			default:
				s.State = WarmDone
			}
		})
	})
	return nil
}

// CancelWarm ends the warming that runs.
func (u *Users) CancelWarm() {
	u.warming.mu.Lock()
	defer u.warming.mu.Unlock()
	if u.warming.cancel != nil {
		u.warming.cancel()
	}
}

// warm reads the groups of all servers. Of a name that two servers have, the first one counts, as in a login.
func (u *Users) warm(ctx context.Context, c *ldapconfig.Config, v version) error {
	had := make(map[string]bool)
	for i := range c.Servers {
		if err := u.warmOne(ctx, c, v, &c.Servers[i], had); err != nil {
			return fmt.Errorf("%s: %w", c.Servers[i].Addr(), err)
		}
	}
	return nil
}

func (u *Users) warmOne(
	ctx context.Context, c *ldapconfig.Config, v version, server *ldapconfig.Server, had map[string]bool,
) error {
	attribute := nameAttribute(server.SearchFilter)
	switch {
	case server.GroupSearchFilter == "" || server.GroupMemberAttribute == "":
		return errors.New("warming needs group-search-filter and group-member-attribute")
	case attribute == "":
		return errors.New("search-filter must compare one attribute with %s, such as (uid=%s), for warming")
	}
	s, err := dial(ctx, server, u.base, maxWarm, time.Duration(c.Timeout), silent)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.bindReader(); err != nil {
		return err
	}
	for _, g := range server.Groups() {
		members, err := s.members(g)
		if err != nil {
			return err
		}
		for _, dn := range members {
			if err := s.remember(u, c, v, dn, attribute, had); err != nil {
				return err
			}
			u.warming.change(func(now *WarmStatus) { now.Users = len(had) })
		}
		u.warming.change(func(now *WarmStatus) { now.Groups++ })
	}
	return nil
}

// members returns the DNs of the members of a group.
func (s *session) members(group string) (out []string, err error) {
	filter := strings.ReplaceAll(s.server.GroupSearchFilter, "%s", goldap.EscapeFilter(group))
	attribute := s.server.GroupMemberAttribute
	found, err := s.search(s.server.GroupSearchBaseDNs, goldap.ScopeWholeSubtree, 0, filter, attribute)
	for _, e := range found {
		out = append(out, e.GetEqualFoldAttributeValues(attribute)...)
	}
	return out, err
}

// remember finds the names of a member of a group, and then the user of that name in the same way as a login does. A
// member that is no user, or not the one that a login would find, is left out.
func (s *session) remember(
	u *Users, c *ldapconfig.Config, v version, dn, attribute string, had map[string]bool,
) error {
	found, err := s.search([]string{dn}, goldap.ScopeBaseObject, 1, "(objectClass=*)", attribute)
	if goldap.IsErrorAnyOf(err, goldap.LDAPResultNoSuchObject, goldap.LDAPResultInvalidDNSyntax) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range found {
		for _, name := range e.GetEqualFoldAttributeValues(attribute) {
			if had[name] {
				continue
			}
			p, err := s.identify(name)
			if errors.Is(err, errUnknown) || errors.Is(err, errAmbiguous) || err == nil && !sameDN(p.dn, e.DN) {
				continue
			} else if err != nil {
				return err
			}
			if len(had) >= maxCached {
				return fmt.Errorf("more than %d users: the rest is asked for when they log in", maxCached)
			}
			had[name] = true
			u.keep(c, v, question{name: name}, p)
		}
	}
	return nil
}
