package probe

import (
	"net/netip"
	"time"

	"innertun/cmd/internal/probe/packet"
)

// Result is what was found out about one address of one target. Its JSON form has all keys always.
type Result struct {
	Target     string  `json:"target"`  // as the user wrote it
	Address    string  `json:"address"` // IP:port; "" if the name has none
	Family     string  `json:"family"`  // ipv4 or ipv6
	Local      string  `json:"local"`   // IP
	Error      string  `json:"error"`   // why it could not be probed, or not to the end
	RTT        float64 `json:"rtt_ms"`  // the least
	Loss       float64 `json:"loss"`    // of plain SYNs, 0 to 1
	DurationMS float64 `json:"duration_ms"`

	Plain   Finding    `json:"plain"`          // open, closed, icmp, silent
	ENO     ENO        `json:"eno"`            // answered, no-common-tep, vacuous, absent, echoed, malformed
	Later   Finding    `json:"later_segments"` // kept, not-kept, accepted, dropped, reset
	Crypt   Crypt      `json:"tcpcrypt"`       // completed, unconfirmed, failed
	Unknown Finding    `json:"unknown_option"` // ignored, echoed
	Data    Finding    `json:"syn_data"`       // taken, ignored
	TFO     TFO        `json:"tfo"`            // cookie, none, echoed
	Inner   InnerSpace `json:"inner_space"`    // upgraded, data-taken, ignored
	Hops    Hops       `json:"hops"`
}

// ENO is what a SYN with ENO came to.
type ENO struct {
	Finding
	TEP  string   `json:"tep"`  // what the server picked of all
	TEPs []string `json:"teps"` // what it takes, each offered alone
}

// Crypt is a key exchange of tcpcrypt.
type Crypt struct {
	Finding
	TEP       string  `json:"tep"`
	Cipher    string  `json:"cipher"`
	Handshake float64 `json:"handshake_ms"` // from the SYN to the keys
}

// TFO is what a request for a TCP Fast Open cookie came to. RFC 7413.
type TFO struct {
	Finding
	Cookie int `json:"cookie_octets"`
}

// InnerSpace is what an upgraded SYN came to.
type InnerSpace struct {
	Finding
	Mark bool `json:"mark"` // the server's ENO option says that it speaks Inner Space
}

// Hops is what routers on the way quoted.
type Hops struct {
	Detail string `json:"detail"` // why nothing was looked for
	// Distance is where the server, or what answers for it, first answered; 0: nothing did.
	Distance int      `json:"distance"`
	Path     []Hop    `json:"path"`
	Changes  []Change `json:"changes"`
}

// Hop is one router.
type Hop struct {
	Hop     int      `json:"hop"`
	Address string   `json:"address"` // "": it said nothing
	RTT     float64  `json:"rtt_ms"`
	Quoted  int      `json:"quoted_octets"` // of TCP, the most
	Sees    []string `json:"sees"`          // what of the packets was different here, in words
}

// Change is what something on the way does to packets. It stands between the last hop that quoted the packet as it was sent and
// the first that quoted it changed: it may be either of them.
type Change struct {
	Segment string `json:"segment"` // syn, syn-data or ack
	packet.Change
	After        int    `json:"after_hop"` // 0: this host
	AfterAddress string `json:"after_address"`
	By           int    `json:"by_hop"`
	ByAddress    string `json:"by_address"`
}

// notAsked gives every question that has no finding the reason for it.
func (r *Result) notAsked(why string) {
	for _, f := range []*Finding{&r.Plain, &r.ENO.Finding, &r.Later, &r.Crypt.Finding, &r.Unknown, &r.Data, &r.TFO.Finding, &r.Inner.Finding} {
		if f.Sent == 0 && f.Detail == "" {
			f.Detail = why
		}
	}
	if r.Hops.Path == nil && r.Hops.Detail == "" {
		r.Hops.Detail = why
	}
}

func newResult(target string, to netip.AddrPort) *Result {
	r := &Result{Target: target, Family: "ipv4"}
	if to.IsValid() {
		r.Address = to.String()
	}
	if to.Addr().Is6() {
		r.Family = "ipv6"
	}
	return r
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
