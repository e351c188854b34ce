//go:build packages

package packages

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

var (
	givenRoot     = flag.String("debian", "", "root of an earlier debootstrap with influxdb and influxdb-client in it")
	givenPackages = flag.String("packages", "", "folder with packages, instead of new ones")
)

// base has what the tests share.
var base string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if base, err = os.MkdirTemp("", "packages"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(base)
	os.Exit(code)
}

// built has the packages for this machine's architecture.
var built = sync.OnceValues(func() (string, error) {
	if *givenPackages != "" {
		return *givenPackages, nil
	}
	folder := filepath.Join(base, "packages")
	cmd := exec.Command("go", "run", "./release", "packages", "-root", "..", "-version", "v0.0.1", "-out", folder,
		"-only", "linux/"+runtime.GOARCH)
	cmd.Dir = "../../tools"
	cmd.Stderr = os.Stderr
	return folder, cmd.Run()
})

// debian is a root with a small Debian and its own InfluxDB in it.
var debian = sync.OnceValues(func() (string, error) {
	if *givenRoot != "" {
		return *givenRoot, nil
	}
	return bootstrap("debian", "influxdb,influxdb-client")
})

// systemd is a root with a small Debian that starts systemd.
var systemd = sync.OnceValues(func() (string, error) {
	return bootstrap("systemd", "systemd,systemd-sysv,dbus")
})

func bootstrap(name, packages string) (folder string, err error) {
	folder = filepath.Join(base, name)
	cmd := exec.Command("debootstrap", "--variant=minbase", "--include="+packages, "bookworm", folder)
	cmd.Stderr = os.Stderr
	return folder, cmd.Run()
}

// need skips a test where a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root may make roots and networks")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("skipped: %s is not installed", program)
		}
	}
}

// machine starts a box with Debian, its InfluxDB, and our packages in /root.
func machine(t *testing.T, name string) *box {
	t.Helper()
	need(t, "debootstrap", "unshare", "nsenter", "ip", "dpkg")
	return newBox(t, install(t, name, debian), name)
}

// install makes a root like another one, with our packages in /root.
func install(t *testing.T, name string, like func() (string, error)) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), name)
	from, err := like()
	if err != nil {
		t.Fatal(err)
	}
	debs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	copied := exec.Command("sh", "-c", `cp -a "$1" "$2" && cp "$3"/*.deb "$2/root"`, "sh", from, root, debs)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copy the root: %v\n%s", err, out)
	}
	return root
}

const count = `influx -username ann -password pw -database plant -execute 'SELECT count(v), sum(v) FROM m' -format csv`

// points are what count counts.
const points = "m,0,200,20100\n"

// old runs Debian's server. Its own init script needs more open files than a container may have.
const old = "start-stop-daemon --quiet --pidfile /run/old.pid --exec /usr/bin/influxd "

// A plain server of Debian has data. Our packages take its place: nothing is lost by installing, adopting, removing,
// purging, or installing again, nor by purging what is left of Debian's package.
func TestDebianServerMovesIn(t *testing.T) {
	t.Parallel()
	b := machine(t, "first")
	b.run(old + "--start --background --make-pidfile --chuid influxdb")
	b.until("influx -execute 'SHOW DATABASES'")
	b.run(`influx -execute "CREATE DATABASE plant; CREATE USER ann WITH PASSWORD 'pw' WITH ALL PRIVILEGES"`)
	b.run(`(echo '# DML'; echo '# CONTEXT-DATABASE: plant'; for i in $(seq 1 200); do
		echo "m,h=a$i v=$i $((1700000000 + i))000000000"; done) >/tmp/points && influx -import -path /tmp/points`)
	expect(t, b.run(count), points)
	b.run("echo '# changed by its owner' >>/etc/influxdb/influxdb.conf")
	b.run(old + "--stop --retry 30")

	b.run("dpkg --force-confold -i /root/concord-data_*.deb /root/concord-meta_*.deb")
	expect(t, b.run("tail -n 1 /etc/influxdb/influxdb.conf"), "# changed by its owner\n")
	b.run("service influxdb-meta start && influxd-ctl join && service influxdb start")
	out, err := b.command(count).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "influxd-ctl adopt") {
		t.Errorf("before the adoption a query says %s, %v", out, err)
	}
	b.run("influxd-ctl adopt first:8088")
	b.until(count)
	expect(t, b.run(count), points)

	b.run("dpkg --purge influxdb && test -L /etc/systemd/system/multi-user.target.wants/influxdb.service")
	expect(t, b.run(count), points)
	expect(t, b.run("tail -n 1 /etc/influxdb/influxdb.conf"), "# changed by its owner\n")

	b.run("dpkg --remove concord-data")
	if out, err := b.command(count).CombinedOutput(); err == nil {
		t.Errorf("the data node still answers after its removal: %s", out)
	}
	b.run("dpkg -i /root/concord-data_*.deb && service influxdb start")
	expect(t, b.run(count), points)

	b.run("dpkg --purge concord-data")
	for _, file := range []string{
		"/etc/influxdb/influxdb.conf", "/etc/init.d/influxdb",
		"/etc/systemd/system/multi-user.target.wants/influxdb.service",
	} {
		if _, err := os.Lstat(filepath.Join(b.root, file)); err == nil {
			t.Errorf("a purge leaves %s", file)
		}
	}
	b.run("dpkg -i /root/concord-data_*.deb && service influxdb start")
	expect(t, b.run(count), points)
}

const (
	value     = `influx -database plant -execute 'SELECT v FROM m' -format csv`
	wantValue = "name,time,v\nm,1700000000000000000,1\n"
)

// addSecond adds a second node to a cluster of one. What is written to the first one is read from it.
func addSecond(t *testing.T, first, second *box) {
	t.Helper()
	first.run("influxd-ctl add-data second:8088")
	first.run(`influx -execute 'CREATE DATABASE plant WITH REPLICATION 2'`)
	first.run(`influx -database plant -execute 'INSERT m v=1 1700000000000000000'`)
	expect(t, second.run(value), wantValue)
}

// What the README says makes a cluster, on machines without systemd, and adds a second node.
func TestReadmeMakesACluster(t *testing.T) {
	t.Parallel()
	first, second := machine(t, "first"), machine(t, "second")
	connect(t, first, second)
	for _, b := range []*box{first, second} {
		b.run("dpkg --purge influxdb influxdb-client")
	}
	first.run("dpkg -i /root/concord-meta_*.deb /root/concord-data_*.deb")
	first.run("service influxdb-meta start && service influxdb start")
	first.run("influxd-ctl join")

	second.run("dpkg -i /root/concord-data_*.deb && service influxdb start")
	addSecond(t, first, second)
	second.run("service influxdb restart && service influxdb reload && service influxdb stop")
	if out, err := second.command("service influxdb status").CombinedOutput(); err == nil {
		t.Errorf("the data node still runs: %s", out)
	}
}

// What the README says makes a cluster under systemd, word for word. A node that dies is started again.
func TestReadmeMakesAClusterUnderSystemd(t *testing.T) {
	t.Parallel()
	need(t, "debootstrap", "systemd-nspawn", "nsenter", "ip", "dpkg")
	first := bootBox(t, install(t, "first", systemd), "first")
	second := bootBox(t, install(t, "second", systemd), "second")
	connect(t, first, second)
	first.run("cd /root && apt install -y ./concord-meta_*_" + runtime.GOARCH + ".deb ./concord-data_*_" + runtime.GOARCH + ".deb")
	first.run("systemctl start influxdb-meta influxdb")
	first.run("influxd-ctl join")

	second.run("dpkg -i /root/concord-data_*.deb && systemctl start influxdb")
	addSecond(t, first, second)

	second.run("kill -9 $(systemctl show -p MainPID --value influxdb)")
	second.until("test $(systemctl show -p NRestarts --value influxdb) = 1 && systemctl is-active influxdb")
	expect(t, second.run(value), wantValue)
	second.run("systemctl reload influxdb && systemctl restart influxdb")
	expect(t, second.run(value), wantValue)
	if out := second.run("systemctl show -p Type influxdb"); out != "Type=notify\n" {
		t.Errorf("the service is of %q: it does not say when it is ready", out)
	}
	for _, b := range []*box{first, second} {
		b.run("systemctl stop influxdb && ! systemctl is-failed influxdb")
	}
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q at the end", got, want)
	}
}
