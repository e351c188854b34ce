package cluster

import (
	"fmt"
	"strings"
)

// Databases and policies are folders. Some names are taken: a database called like a file of the data folder cannot be
// written to, and the engine does not look for the shards of a policy called like one of its own folders.

// reservedPrefix is what the names of Concord's files in the data folder begin with.
const reservedPrefix = "concord-"

// patterns are characters that the engine takes for a pattern when it looks for the files of a shard. With a [ in its
// path a shard opens without its files, and with a * or ? it may open those of another one.
const patterns = `*?[\`

func checkPattern(what, name string) error {
	if i := strings.IndexAny(name, patterns); i >= 0 {
		return fmt.Errorf("%q cannot be the name of a %s: the storage engine takes %q for a pattern of file names",
			name, what, name[i:i+1])
	}
	return nil
}

func checkPolicyFolder(name string) error {
	if err := checkPattern("retention policy", name); err != nil {
		return err
	}
	if name == "_series" || name == "index" {
		return fmt.Errorf("%q cannot be the name of a retention policy: a folder of the storage engine has it", name)
	}
	return nil
}

func checkDatabaseFolder(name string) error {
	if err := checkPattern("database", name); err != nil {
		return err
	}
	if strings.HasPrefix(name, reservedPrefix) {
		return fmt.Errorf("%q cannot be the name of a database: files of the data folder begin with %s",
			name, reservedPrefix)
	}
	return nil
}

func (o CreateDatabase) check(s *State) error {
	if s.Data.Database(o.Name) == nil {
		if err := checkDatabaseFolder(o.Name); err != nil {
			return err
		}
	}
	if o.Spec != nil {
		return checkPolicyFolder(o.Spec.Name)
	}
	return nil
}

func (o CreateRetentionPolicy) check(s *State) error { return checkPolicyFolder(o.Spec.Name) }

func (o UpdateRetentionPolicy) check(s *State) error {
	if o.Update.Name == nil || *o.Update.Name == o.Name {
		return nil
	}
	return checkPolicyFolder(*o.Update.Name)
}
