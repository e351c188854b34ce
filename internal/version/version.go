// Package version tells which build this is.
package version

import "runtime/debug"

// release is set by the linker, in builds of a release:
//
//	go build -ldflags "-X concord/internal/version.release=v1.2.3"
var release string

// String is the version of a release, or the module's version from the build information, with the commit where there
// is no release, or "dev".
func String() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return "dev"
}
