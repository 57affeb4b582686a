"""A site: local private training, its ledger, and the one adapter to Flower's ClientApp."""
