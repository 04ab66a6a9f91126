"""Stand-ins for the three services of other people: the calendar, the CRM and the auth service.

They promise the behaviour those services show, failures and delays included, repeatable from a seed, and
they keep books (`/webhooks/ledger`, `/blocks`) from which a test can tell what truly arrived. They know
nothing of bookings, Redis or Postgres, and the rest of the service reaches them over HTTP only, as it
would reach the real ones.
"""
