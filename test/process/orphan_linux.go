package process

import "syscall"

// endWithParent makes a node end with the test binary, also when that panics.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
