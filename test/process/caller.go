package process

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// caller names the node whose process made a connection, or "" when it was
// none of ours. The kernel's table of TCP sockets has the inode of the other
// end; the processes' open files tell whose it is.
func caller(conn net.Conn, pids map[int]string) string {
	peer, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	self := conn.LocalAddr().(*net.TCPAddr)
	inode := socketInode(hexAddr(peer), hexAddr(self))
	if inode == "" {
		return ""
	}
	want := "socket:[" + inode + "]"
	for pid, name := range pids {
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		d, err := os.Open(dir)
		if err != nil {
			continue // it ended
		}
		fds, _ := d.Readdirnames(-1)
		d.Close()
		for _, fd := range fds {
			if target, err := os.Readlink(dir + "/" + fd); err == nil && target == want {
				return name
			}
		}
	}
	return ""
}

// hexAddr writes an IPv4 address as /proc/net/tcp does: the bytes of the
// address from the last to the first, as on little-endian machines.
func hexAddr(a *net.TCPAddr) string {
	ip := a.IP.To4()
	if ip == nil {
		return ""
	}
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]})), a.Port)
}

// socketInode finds the socket with a local and a remote address.
func socketInode(local, remote string) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 9 && fields[1] == local && fields[2] == remote &&
			fields[9] != "0" {
			return fields[9]
		}
	}
	return ""
}
