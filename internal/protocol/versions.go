package protocol

// A build that older ones would misunderstand has a greater current. One that does not cope with older ones any more
// has a greater oldest, too. docs/upgrade.md lists which releases may be mixed, and test/upgrade replaces this file.
const (
	current = 1
	oldest  = 1
)
