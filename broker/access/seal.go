package access

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A sealed secret, in records and snapshots:
//
//	off size
//	 0   4   which master key: the first bytes of its SHA-256
//	 4  12   nonce
//	16   n   AES-256-GCM of the secret, and its tag
//
// Additional data is "gantry user " and the user's name, so a sealed secret cannot
// be moved to another user.
const (
	sealedKeyID = 4
	sealedNonce = 12
	sealedHead  = sealedKeyID + sealedNonce
)

// MasterKey seals the users' secrets. It is never where they are: neither in the log
// nor in the data directory.
type MasterKey struct {
	id   [sealedKeyID]byte
	aead cipher.AEAD
}

// masterKeyLen is that of AES-256, in bytes.
const masterKeyLen = 32

// NewMasterKey returns the text of a random key: 64 hexadecimal digits.
func NewMasterKey() string {
	var b [masterKeyLen]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ParseMasterKey reads a key's text. Its error does not repeat it.
func ParseMasterKey(text string) (*MasterKey, error) {
	raw, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != masterKeyLen {
		return nil, fmt.Errorf("access: a master key is %d hexadecimal digits", 2*masterKeyLen)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	k := &MasterKey{aead: aead}
	sum := sha256.Sum256(raw)
	copy(k.id[:], sum[:])
	return k, nil
}

// Seal encrypts a user's secret.
func (k *MasterKey) Seal(user, secret string) []byte {
	sealed := make([]byte, sealedHead, sealedHead+len(secret)+k.aead.Overhead())
	copy(sealed, k.id[:])
	rand.Read(sealed[sealedKeyID:])
	return k.aead.Seal(sealed, sealed[sealedKeyID:sealedHead], []byte(secret), additional(user))
}

// ErrOtherKey is a secret that was sealed under another master key.
var ErrOtherKey = errors.New("access: sealed under another master key")

// Open decrypts what Seal made.
func (k *MasterKey) Open(user string, sealed []byte) (string, error) {
	switch {
	case len(sealed) < sealedHead:
		return "", errors.New("access: a sealed secret is cut short")
	case [sealedKeyID]byte(sealed) != k.id:
		return "", ErrOtherKey
	}
	secret, err := k.aead.Open(nil, sealed[sealedKeyID:sealedHead], sealed[sealedHead:], additional(user))
	if err != nil {
		return "", errors.New("access: a sealed secret was altered")
	}
	return string(secret), nil
}

func additional(user string) []byte { return []byte("gantry user " + user) }
