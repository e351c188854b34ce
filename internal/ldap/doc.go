// Package ldap logs users in whom an LDAP server knows, and finds the roles that their groups give them.
//
//	session.go  one connection to one server: TLS, binds and searches, with bounds on time and bytes
//	ask.go      one question: the servers in order, until one knows the user
//	users.go    who may log in; what the servers said, for as long as it counts
//	warm.go     reads all groups at once, so that users are known before they log in
//	check.go    finds mistakes in a configuration; verify tells each step
//
// The configuration is in the state of the cluster (package cluster), so each node has it. A node that checks passwords
// asks the servers by itself, and keeps answers in its memory alone: a password as a salted sum. A change of the
// configuration, and a purge, give the state's configuration another version. What was heard for another version does
// not count.
//
// A server is not trusted to be quick, or to be short: a question has a time limit and a limit of bytes, few questions
// run at a time, and requests with the same name and password share one.
package ldap
