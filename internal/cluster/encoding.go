package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/restrict"
)

// A State in bytes, integers little-endian:
//
//	"CNST" | version | crc32c u32 | head length u32 | data length u32 | head | data
//
// The checksum covers all that follows it. head is JSON of everything but Data,
// data is the engine's own protobuf of it.
//
// Version 2 is version 1 with restrictions, grants, permissions of roles or an LDAP configuration in the head. A build
// that knows no version 2 must not go on without them.
const (
	magic      = "CNST"
	version    = 1 // of a state without rules
	ruled      = 2
	sumAt      = len(magic) + 1
	lengthsAt  = sumAt + 4
	headAt     = lengthsAt + 8
	maxEncoded = 1 << 30 // bytes
)

// ErrCorrupt is wrapped by the errors of UnmarshalBinary.
var ErrCorrupt = errors.New("corrupt cluster state")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type head struct {
	Index     uint64 `json:"index"`
	MaxNodeID uint64 `json:"max-node-id"`
	DataNodes []Node `json:"data-nodes"`
	MetaNodes []Node `json:"meta-nodes"`
	Roles     []Role `json:"roles,omitempty"`

	Grants map[string]Grants `json:"grants,omitempty"`

	ContinuousRuns []ContinuousRun `json:"continuous-runs,omitempty"`

	Restrictions []restrict.Restriction `json:"restrictions,omitempty"`
	FineGrants   []restrict.Grant       `json:"fine-grants,omitempty"`
	MaxRuleID    uint64                 `json:"max-rule-id,omitempty"`

	LDAP *LDAP `json:"ldap,omitempty"` // with bind passwords

	Merges     []Merge `json:"merges,omitempty"`
	OldShardID uint64  `json:"old-shard-id,omitempty"`
}

// NewState returns the state of a cluster without anything.
func NewState() *State { return &State{Data: &meta.Data{}} }

// Clone returns a copy that shares nothing with s that an Op changes.
func (s *State) Clone() *State {
	c := *s
	c.DataNodes, c.MetaNodes = slices.Clone(s.DataNodes), slices.Clone(s.MetaNodes)
	c.Data = s.Data.Clone()
	for i := range c.Data.Databases { // the engine's Clone shares these
		rps := c.Data.Databases[i].RetentionPolicies
		for j := range rps {
			rps[j].Subscriptions = slices.Clone(rps[j].Subscriptions)
		}
	}
	return &c
}

// MarshalBinary encodes s with a version and a checksum.
func (s *State) MarshalBinary() ([]byte, error) {
	h, err := json.Marshal(head{
		s.Index, s.MaxNodeID, s.DataNodes, s.MetaNodes, s.Roles, s.Grants, s.ContinuousRuns,
		s.Restrictions, s.FineGrants, s.MaxRuleID, s.LDAP, s.Merges, s.OldShardID,
	})
	if err != nil {
		return nil, fmt.Errorf("encode cluster state: %w", err)
	}
	d, err := s.Data.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode cluster state: %w", err)
	}
	if len(h)+len(d) > maxEncoded-headAt {
		return nil, fmt.Errorf("encode cluster state: %d bytes are too many", len(h)+len(d))
	}
	b := make([]byte, headAt, headAt+len(h)+len(d))
	copy(b, magic)
	b[len(magic)] = version
	if s.hasRules() {
		b[len(magic)] = ruled
	}
	binary.LittleEndian.PutUint32(b[lengthsAt:], uint32(len(h)))
	binary.LittleEndian.PutUint32(b[lengthsAt+4:], uint32(len(d)))
	b = append(append(b, h...), d...)
	binary.LittleEndian.PutUint32(b[sumAt:], crc32.Checksum(b[lengthsAt:], castagnoli))
	return b, nil
}

// hasRules reports whether the state has what a build that reads version 1 alone would go on without.
func (s *State) hasRules() bool {
	return len(s.Restrictions)+len(s.FineGrants)+len(s.Grants) > 0 || s.LDAPConfig() != nil ||
		slices.ContainsFunc(s.Roles, func(r Role) bool { return len(r.Permissions) > 0 })
}

// UnmarshalBinary decodes what MarshalBinary encoded. On an error, which wraps
// ErrCorrupt, s is as it was.
func (s *State) UnmarshalBinary(b []byte) error {
	if len(b) < headAt || len(b) > maxEncoded || string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: no header", ErrCorrupt)
	}
	if v := b[len(magic)]; v != version && v != ruled {
		return fmt.Errorf("%w: version %d, this build reads %d and %d", ErrCorrupt, v, version, ruled)
	}
	if crc32.Checksum(b[lengthsAt:], castagnoli) != binary.LittleEndian.Uint32(b[sumAt:]) {
		return fmt.Errorf("%w: checksum mismatch", ErrCorrupt)
	}
	hn, dn := uint64(binary.LittleEndian.Uint32(b[lengthsAt:])), uint64(binary.LittleEndian.Uint32(b[lengthsAt+4:]))
	if uint64(headAt)+hn+dn != uint64(len(b)) {
		return fmt.Errorf("%w: lengths %d and %d in %d bytes", ErrCorrupt, hn, dn, len(b))
	}
	var h head
	if err := json.Unmarshal(b[headAt:headAt+int(hn)], &h); err != nil {
		return fmt.Errorf("%w: head: %w", ErrCorrupt, err)
	}
	data := new(meta.Data)
	if err := data.UnmarshalBinary(b[headAt+int(hn):]); err != nil {
		return fmt.Errorf("%w: data: %w", ErrCorrupt, err)
	}
	*s = State{
		Index: h.Index, MaxNodeID: h.MaxNodeID, DataNodes: h.DataNodes, MetaNodes: h.MetaNodes, Roles: h.Roles,
		Data: data, Grants: h.Grants,
		ContinuousRuns: h.ContinuousRuns,
		Restrictions:   h.Restrictions, FineGrants: h.FineGrants, MaxRuleID: h.MaxRuleID,
		LDAP: h.LDAP, Merges: h.Merges, OldShardID: h.OldShardID,
	}
	return nil
}
