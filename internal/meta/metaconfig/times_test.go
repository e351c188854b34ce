package metaconfig

import (
	"strings"
	"testing"
)

func TestTimesThatRaftRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"[meta] heartbeat-timeout: must be 5ms at least":                         func(c *Config) { c.Meta.HeartbeatTimeout = 0 },
		"[meta] election-timeout: must not be shorter than heartbeat-timeout":    func(c *Config) { c.Meta.HeartbeatTimeout *= 2 },
		"[meta] leader-lease-timeout: must not be longer than heartbeat-timeout": func(c *Config) { c.Meta.LeaderLeaseTimeout *= 3 },
		"[meta] commit-timeout: must be 5ms at least":                            func(c *Config) { c.Meta.CommitTimeout = 1 },
		"[meta] lease-duration: must be 1s at least":                             func(c *Config) { c.Meta.LeaseDuration = 0 },
	} {
		c := New()
		change(c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := New().Validate(); err != nil {
		t.Error(err)
	}
}
