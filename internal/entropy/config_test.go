package entropy

import (
	"strings"
	"testing"
)

func TestConfigValidateNamesTheKey(t *testing.T) {
	if err := NewConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Config){
		"check-interval": func(c *Config) { c.CheckInterval = 0 },
		"max-fetch":      func(c *Config) { c.MaxFetch = 0 },
		"max-sync":       func(c *Config) { c.MaxSync = -1 },
		"settle":         func(c *Config) { c.Settle = -1 },
		"max-rate":       func(c *Config) { c.MaxRate = 1 << 63 },
		"scrub-interval": func(c *Config) { c.ScrubInterval = -1 },
	} {
		c := NewConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error is %v", key, err)
		}
	}
}
