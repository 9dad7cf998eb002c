package eno

import "fmt"

// Reason tells why a connection is plain TCP. Its String is the word that
// status pages and logs show; that of NoReason is empty.
type Reason uint8

const (
	NoReason      Reason = iota
	PeerNoENO            // the peer's SYN segment had no ENO option
	Stripped             // ENO was exchanged in the SYNs, then missing or of no effect
	Malformed            // the peer's option was ill-formed, repeated, or changed between its SYNs
	SYNENODropped        // SYNs with ENO went unanswered
	NoCommonTEP          // no TEP is valid for both hosts
	RoleConflict         // both hosts sent the same "b"
	NotAppAware          // mandatory application-aware mode, and the peer sent a = 0
	PolicyOff            // configuration says plain
	SkipPort             // the application encrypts on this port by itself
	Remembered           // the path failed with ENO a while ago
	Local                // a destination on this host
	NoRoom               // the segment's header has no room for the option
)

func (r Reason) String() string {
	switch r {
	case NoReason:
		return ""
	case PeerNoENO:
		return "peer-no-eno"
	case Stripped:
		return "eno-stripped"
	case Malformed:
		return "eno-malformed"
	case SYNENODropped:
		return "syn-eno-dropped"
	case NoCommonTEP:
		return "no-common-tep"
	case RoleConflict:
		return "role-conflict"
	case NotAppAware:
		return "not-app-aware"
	case PolicyOff:
		return "policy-off"
	case SkipPort:
		return "skip-port"
	case Remembered:
		return "remembered"
	case Local:
		return "local"
	case NoRoom:
		return "no-room"
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}
