package socks

import (
	"crypto/sha256"
	"crypto/subtle"
)

// authVersion is the version of the user name and password exchange (RFC 1929, Section 2).
const authVersion = 1

// User is a name and a password, of at most 255 octets each (RFC 1929, Section 2).
type User struct{ Name, Password string }

// AppendUser appends u as a client sends it; longer names and passwords are cut at 255 octets.
func AppendUser(dst []byte, u User) []byte {
	name, password := u.Name[:min(len(u.Name), 255)], u.Password[:min(len(u.Password), 255)]
	dst = append(dst, authVersion, byte(len(name)))
	dst = append(dst, name...)
	dst = append(dst, byte(len(password)))
	return append(dst, password...)
}

// ParseUser reads a User from the start of b. Lengths of zero, which RFC 1929 has no room for, are let through: some
// clients send empty passwords, and they are better answered with a failure than with a closed connection.
func ParseUser(b []byte) (User, int, error) {
	if err := need(b, 1); err != nil {
		return User{}, 0, err
	}
	if b[0] != authVersion {
		return User{}, 0, &VersionError{Got: b[0], Want: authVersion}
	}
	if err := need(b, 3); err != nil { // the shortest has two lengths
		return User{}, 0, err
	}
	name := b[2:]
	n := int(b[1])
	if err := need(name, n+1); err != nil {
		return User{}, 0, err
	}
	password := name[n+1:]
	p := int(name[n])
	if err := need(password, p); err != nil {
		return User{}, 0, err
	}
	u := User{Name: string(name[:n]), Password: string(password[:p])}
	return u, len(b) - len(password) + p, nil
}

// AppendAuthStatus appends the server's answer to a User (RFC 1929, Section 2).
func AppendAuthStatus(dst []byte, ok bool) []byte {
	if ok {
		return append(dst, authVersion, 0)
	}
	return append(dst, authVersion, 1)
}

// ParseAuthStatus reads the server's answer to a User from the start of b.
func ParseAuthStatus(b []byte) (ok bool, n int, err error) {
	if err := need(b, 2); err != nil {
		return false, 0, err
	}
	if b[0] != authVersion {
		return false, 0, &VersionError{Got: b[0], Want: authVersion}
	}
	return b[1] == 0, 2, nil
}

// known reports whether u is one of users. It always looks at all of them, and at all octets: how long it takes tells
// neither a name nor how much of a password is right.
func known(users []User, u User) bool {
	name, password := sha256.Sum256([]byte(u.Name)), sha256.Sum256([]byte(u.Password))
	found := 0
	for _, x := range users {
		n, p := sha256.Sum256([]byte(x.Name)), sha256.Sum256([]byte(x.Password))
		found |= subtle.ConstantTimeCompare(n[:], name[:]) & subtle.ConstantTimeCompare(p[:], password[:])
	}
	return found == 1
}
