package netlab

import "testing"

// Direction is one way through the router.
type Direction string

const (
	Both     Direction = ""
	ToServer Direction = "s0" // leaves by this interface
	ToClient Direction = "c0"
)

// Segments selects TCP segments by their flags.
type Segments string

const (
	All    Segments = ""
	SYN    Segments = " --tcp-flags SYN SYN"  // SYN and SYN-ACK
	NonSYN Segments = " --tcp-flags SYN NONE" // all others
)

func (d Direction) match() string {
	if d == Both {
		return ""
	}
	return " -o " + string(d)
}

// StripENO makes the router remove options of kind 69 from the segments selected, as some middleboxes do with
// options they do not know: it overwrites them with NOPs.
func (l *Lab) StripENO(t testing.TB, s Segments, d Direction) {
	t.Helper()
	l.both(t, "-t mangle -A FORWARD"+d.match()+" -p tcp"+string(s)+" -j TCPOPTSTRIP --strip-options 69")
}

// DropENO makes the router drop the segments selected when they carry an option of kind 69.
func (l *Lab) DropENO(t testing.TB, s Segments, d Direction) {
	t.Helper()
	l.both(t, "-A FORWARD"+d.match()+" -p tcp"+string(s)+" --tcp-option 69 -j DROP")
}

func (l *Lab) both(t testing.TB, rule string) {
	t.Helper()
	l.Router.Script(t, "iptables "+rule+"\nip6tables "+rule)
}

// ClearMiddlebox undoes StripENO and DropENO.
func (l *Lab) ClearMiddlebox(t testing.TB) {
	t.Helper()
	l.Router.Script(t, `
		for tables in iptables ip6tables; do
			$tables -t mangle -F FORWARD
			$tables-save -t filter | sed -n 's/^-A \(FORWARD .*tcp-option 69.*\)$/-D \1/p' | while read -r rule; do
				$tables $rule
			done
		done`)
}
