package lab

// AddOption adds a TCP option of one's own to segments: an experiment with a new option, as it would leave a host that
// knows it, or a box that marks what passes (a carrier's header enrichment). A segment without room stays as it is. Data
// segments grow: the hosts' MTU must be smaller than the path's by the length of the option, rounded up to 4.
type AddOption struct {
	option []byte
	from   Segments
	acted
}

// NewAddOption adds an option of this kind and content, at most 38 octets, to these segments.
func NewAddOption(kind uint8, content []byte, from Segments) *AddOption {
	content = content[:min(len(content), maxOptions-2)]
	return &AddOption{option: append([]byte{kind, byte(2 + len(content))}, content...), from: from}
}

// Packet implements Element.
func (e *AddOption) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if ok && e.from.match(t.isSYN()) {
		own := packed(t.options)
		if len(own)+len(e.option) <= maxOptions {
			e.act()
			t.options = append(own, e.option...)
			p = t.packet(p.To)
		}
	}
	at.Send(p)
}
