package innerspace

import "fmt"

// ExID is the experiment identifier of an option of kind 253. RFC 6994, Section 3.
type ExID uint16

// The project's inner options: every one there is. None is registered with IANA, and they were
// not compared with the whole of its list; 0x4954 is in use outside, in the TCP header.
//
// None of them needs an answer for anything to make progress.
const (
	ExIDInit      ExID = 0x4960 // an Init1 or Init2 of tcpcrypt: AppendInit
	ExIDRekey     ExID = 0x4961 // asks for new keys: AppendRekey
	ExIDProof     ExID = 0x4962 // proves who the sender is: AppendProof
	ExIDMTU       ExID = 0x4963 // the largest packet towards the sender: AppendMTU
	ExIDClose     ExID = 0x4964 // why the sender ends the connection: AppendClose
	ExIDOuter     ExID = 0x4965 // an option of the TCP header, whole: AppendOuter
	ExIDCookie    ExID = 0x4966 // an echo cookie: AppendCookie
	ExIDEarlyData ExID = 0x4967 // what has become of early data: AppendEarlyData
)

// entry describes an ExID.
type entry struct {
	name   string
	spread bool // its message may be spread over several options
}

var registry = map[ExID]entry{
	ExIDInit:      {"init", true},
	ExIDRekey:     {"rekey", false},
	ExIDProof:     {"proof", true},
	ExIDMTU:       {"mtu", false},
	ExIDClose:     {"close", false},
	ExIDOuter:     {"outer", false},
	ExIDCookie:    {"cookie", false},
	ExIDEarlyData: {"early-data", false},
}

// Known reports whether the registry has the identifier.
func (id ExID) Known() bool { _, ok := registry[id]; return ok }

// Spread reports whether the option is a part of a message, as AppendInit and AppendProof make them.
func (id ExID) Spread() bool { return registry[id].spread }

func (id ExID) String() string {
	if e, ok := registry[id]; ok {
		return e.name
	}
	return fmt.Sprintf("exid(0x%04x)", uint16(id))
}
